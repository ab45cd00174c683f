import torch,json
torch.set_num_threads(1)
from pathlib import Path
from htcv.benchmark_parts import benchmark_cases, read_case
from htcv.decomposer import load_decomposer
from htcv.gain_equalisation import equalise_gains, _resize_maps, median_source
from htcv.composition import within_envelope
from htcv.evaluation import psnr, psnr_after_gain
m=load_decomposer(); rows={}
def cases():
    for n in ('smooth lamps','constant light','hard lamps'):
        for i,f in benchmark_cases([n]).items(): yield n+('/'+' '.join(i.split()[:-1]) if n.startswith('const') else ''),f()
    for n,p in (('real','REAL/with_truth'),('foreign','FOREIGN')):
        for f in sorted(Path(p).iterdir()):
            if f.is_dir(): yield (n+'/'+f.name if n=='real' else n),read_case(f)
for part,case in cases():
    x=case.frames.clamp(0,1)
    g,_=equalise_gains(x,side=128); gm=g.mean(1); med=gm.median(1,keepdim=True).values
    up=(gm-med).clamp(min=0).amax(1).mean(); dn=(med-gm).clamp(min=0).amax(1).mean()
    sp=float(gm.std(1).mean()) if x.shape[2]>1 else 0.; sk=float((up-dn)/(up+dn+.02))
    gate=sp<.3 and sk<.3
    S=case.source if case.layers is None else case.layers.source
    r=dict(gate=float(gate),spread=sp,skew=sk)
    with torch.no_grad(): y=m(x)
    gem=within_envelope(median_source(x*(-_resize_maps(g,x.shape[-2:],'bilinear')).exp2()).clamp(0,1),x,y.occlusion_mask)
    src=gem if gate else y.source
    r|=dict(net=float(psnr(y.source,S)),gem=float(psnr(gem,S)),gated=float(psnr(src,S)),gated_gain=float(psnr_after_gain(src,S)))
    rows.setdefault(part,[]).append(r)
    json.dump(rows,open('gate_benchmark.json','w'))
for k,v in rows.items(): print(f'{k:32s}',len(v),{n:round(sum(a[n] for a in v)/len(v),2) for n in v[0]},flush=True)
