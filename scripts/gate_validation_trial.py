import torch,json
torch.set_num_threads(1)
from htcv.train_command import load_data
from htcv.scene_bank import RelitSequences, draw_batch
from htcv.decomposer import load_decomposer
from htcv.gain_equalisation import equalise_gains, _resize_maps, median_source
from htcv.composition import within_envelope
from htcv.evaluation import psnr, psnr_after_gain
tr,va=load_data('data')
m=load_decomposer()
rows=[]
for kind,n in (('changing',12),('smooth',12),('constant',3),('shadow_only',5),('light_only',5),('bracket',4),('auto_exposure',3)):
    d=RelitSequences(va.banks,va.images,{kind:1.},augment=False,seed=('gate',kind)); d._smaller=va._smaller
    for i in range(n):
        b=draw_batch(d,i,2,10,128)
        with torch.no_grad(): y=m(b['frames'])
        x=b['frames']; g,_=equalise_gains(x.clamp(0,1),side=128)
        gem=median_source(x*(-_resize_maps(g,x.shape[-2:],'bilinear')).exp2()).clamp(0,1)
        gem=within_envelope(gem,x,y.occlusion_mask)
        sp=g.mean(1).std(1).mean((-2,-1))
        for k in range(2):
            S=b['source'][k:k+1]
            gm=g.mean(1); med=gm.median(1,keepdim=True).values; up=(gm-med).clamp(min=0).amax(1).mean((-2,-1)); dn=(med-gm).clamp(min=0).amax(1).mean((-2,-1)); rows.append(dict(kind=kind,up=float(up[k]),dn=float(dn[k]),spread=float(sp[k]),net=float(psnr(y.source[k:k+1],S)),gem=float(psnr(gem[k:k+1],S)),netg=float(psnr_after_gain(y.source[k:k+1],S)),gemg=float(psnr_after_gain(gem[k:k+1],S)),
              half=float(psnr((y.source[k:k+1]+gem[k:k+1])/2,S))))
    r=[q for q in rows if q['kind']==kind]
    print(kind,len(r),{k:round(sum(q[k] for q in r)/len(r),2) for k in r[0] if k!='kind'},flush=True)
json.dump(rows,open('gate_validation.json','w'))
for a,b in ((0,.05),(.05,.1),(.1,.15),(.15,.2),(.2,.25),(.25,.3),(.3,.35),(.35,.4),(.4,.5),(.5,.6),(.6,.8),(.8,1.2),(1.2,9)):
    r=[q for q in rows if a<=q['spread']<b]
    if r: print(f'{a}-{b}',len(r),{k:round(sum(q[k] for q in r)/len(r),2) for k in r[0] if k!='kind'})
