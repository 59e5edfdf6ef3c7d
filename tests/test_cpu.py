"Winograd convolutions in processes of their own, in threads, and in whole networks"
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import pytest, shineon, torch, torch.nn.functional as F
from shineon.benchmarks.plain import random_clip
from shineon.kernels.winograd import Conv2d, conv2d, winograd_state
from shineon.models.unetmask import UNetMask

winograd = pytest.mark.skipif(not winograd_state().startswith('Winograd'), reason=winograd_state())
compare = '''
import shineon, torch, torch.nn.functional as F
from shineon.kernels.winograd import conv2d, winograd_state
torch.manual_seed(0)
x,w = torch.randn(2, 40, 33, 21).requires_grad_(), torch.randn(70, 40, 3, 3).requires_grad_()
results = [torch.autograd.grad(f(x.to(t), w.to(t), padding=1).sin().sum(), (x, w)) for f,t in ((conv2d, torch.float32), (F.conv2d, torch.float64))]
print(winograd_state(), max(((a - b).abs().max()/b.abs().max()).item() for a,b in zip(*results)) < 1e-3)
'''

def told(tmp_path, **env): # by a new process with its own cache
    return subprocess.run([sys.executable, '-c', compare], env=os.environ | dict(XDG_CACHE_HOME=str(tmp_path)) | env, capture_output=True, text=True, check=True).stdout.strip()

@winograd
def test_every_kind_of_processor_and_none(tmp_path):
    "ATEN_CPU_CAPABILITY makes PyTorch, and so us, forget what a processor can do"
    assert told(tmp_path, ATEN_CPU_CAPABILITY='avx2') == 'Winograd, AVX2 True'
    assert len(list((tmp_path/'shineon').iterdir())) == 1
    assert told(tmp_path, ATEN_CPU_CAPABILITY='avx2', CC='no-such-compiler', PATH='') == 'Winograd, AVX2 True' # what was compiled is found again
    assert told(tmp_path, ATEN_CPU_CAPABILITY='default').startswith('PyTorch: it is for')
    assert told(tmp_path, SHINEON_WINOGRAD='0') == 'PyTorch: SHINEON_WINOGRAD is 0 True'

@winograd
def test_no_home_and_no_room(tmp_path):
    (tmp_path/'file').write_text('')
    for env in (dict(XDG_CACHE_HOME=str(tmp_path/'file')), dict(XDG_CACHE_HOME='', HOME='/nowhere')): assert told(tmp_path, **env).startswith('Winograd')

@winograd
def test_threads_do_not_share_their_memory():
    torch.manual_seed(0)
    jobs = [(torch.randn(1, c, 40, 30), torch.randn(k, c, 3, 3)) for c,k in ((16, 200), (96, 32), (48, 48), (130, 17))]*6
    want = [conv2d(x, w, padding=1) for x,w in jobs]
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda job: conv2d(*job, padding=1), jobs))
    assert all(torch.equal(a, b) for a,b in zip(want, found))

@winograd
def test_a_network_learns_the_same():
    def gradients(direct):
        torch.manual_seed(0)
        net = UNetMask(ngf=32)
        for m in net.modules():
            if isinstance(m, Conv2d): m.direct = direct
        out = net(random_clip(2, 1, 128, 64))
        out['result'].square().mean().backward()
        return [out['result'], *(p.grad for p in net.parameters() if p.grad is not None)]
    ours,plain = gradients(False), gradients(True)
    assert len(ours) == len(plain) > 20
    assert not all(torch.equal(a, b) for a,b in zip(ours, plain)) # both ways were gone
    for a,b in zip(ours, plain): assert (a - b).norm() <= 1e-3*b.norm() + 1e-6
