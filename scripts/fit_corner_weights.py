"""Fits the weights by which the corners of a picture are chosen (chapter 58, The corners of a picture).

    fit_corner_weights.py [FIRST LAST]      views FIRST to LAST - 1 of chapter 56; default: 80 320

The likelihood of a softmax over the candidates of each view and *none of them*, where those within 2 pixels of the true
corners are right, is made largest. Prints `WEIGHTS` and `NONE`; nothing is written.
"""
import sys

import cv2
import numpy as np
import torch
from tqdm import tqdm

from htcv.picture_corners import WEIGHTS, distinct, evidence
from htcv.picture_views import picture_view
from htcv.quadrilaterals import WORKING_SIDE, ColourEdges, quadrilaterals, shrink_to


def candidates(i):
    "Evidence (N,K) of the candidates in view i, and which are right (N,)."
    view = picture_view(i)
    small, scale = shrink_to(view.pixels, WORKING_SIDE)
    edges = ColourEdges(small)
    quads = distinct(quadrilaterals(edges)[:4000])
    if not len(quads): return np.zeros((0, len(WEIGHTS))), np.zeros(0, bool)
    found = evidence(edges, quads)[0]
    apart = np.linalg.norm(quads - ((view.corners + .5)*scale - .5), axis=2).max(1)
    return np.stack([found[name] for name in WEIGHTS], 1), apart < 2


def fit(views, ridge=.003):
    "Weights (K,) and the score of none of them."
    views = [(torch.tensor(x), torch.tensor(right)) for x, right in views if len(x)]
    everything = torch.cat([x for x, _ in views])
    mean, spread = everything.mean(0), everything.std(0) + 1e-6
    weights, none = torch.zeros(len(mean), dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([weights, none], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        steps.zero_grad()
        total = 0
        for x, right in views:
            scores = (x - mean)/spread @ weights
            best = torch.logsumexp(scores[right], 0) if right.any() else none[0]
            total = total + torch.logsumexp(torch.cat([scores, none]), 0) - best
        total = total/len(views) + ridge*(weights**2).sum()
        total.backward()
        return total

    steps.step(loss)
    weights = weights.detach()
    return weights/spread, float(none.detach() + (weights*mean/spread).sum())


def main():
    cv2.setNumThreads(1)
    first, last = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (80, 320)
    weights, none = fit([candidates(i) for i in tqdm(range(first, last), disable=None)])
    print("WEIGHTS =", {name: round(float(w), 3) for name, w in zip(WEIGHTS, weights)})
    print("NONE =", round(none, 3))


if __name__ == "__main__": main()
