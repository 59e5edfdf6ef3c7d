"Winograd convolutions in processes of their own, in threads, and in whole networks"
import copy, os, pickle, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import pytest, torch
from shineon.kernels.winograd import conv3x3, use_winograd, winograd_state
from shineon.models.files import for_inference
from shineon.models.sams import SamsGenerator
from shineon.models.unetmask import UNetMask
from shineon.testing import toy_clips

winograd = pytest.mark.skipif(not winograd_state().startswith('Winograd'), reason=winograd_state())
compare = '''
import shineon, torch, torch.nn.functional as F
from shineon.kernels.winograd import conv3x3, winograd_state
torch.manual_seed(0)
x,w = torch.randn(2, 40, 33, 21).requires_grad_(), torch.randn(70, 40, 3, 3).requires_grad_()
def direct(x, w): return F.conv2d(x, w, padding=1)
ways = (conv3x3, torch.float32), (direct, torch.float64)
results = [torch.autograd.grad(f(x.to(t), w.to(t)).sin().sum(), (x, w)) for f,t in ways]
print(winograd_state(), max(((a - b).abs().max()/b.abs().max()).item() for a,b in zip(*results)) < 1e-3)
'''

def run(program, **env): # what a new process prints
    command = [sys.executable, '-c', program]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()

def told(tmp_path, **env): # by a new process with its own cache
    return run(compare, **dict(XDG_CACHE_HOME=str(tmp_path)) | env)

@winograd
def test_every_kind_of_processor_and_none(tmp_path):
    "ATEN_CPU_CAPABILITY makes PyTorch, and so us, forget what a processor can do"
    assert told(tmp_path, ATEN_CPU_CAPABILITY='avx2') == 'Winograd, AVX2 True'
    assert len(list((tmp_path/'shineon').iterdir())) == 1
    found_again = told(tmp_path, ATEN_CPU_CAPABILITY='avx2', CC='no-such-compiler', PATH='')
    assert found_again == 'Winograd, AVX2 True'
    assert told(tmp_path, ATEN_CPU_CAPABILITY='default').startswith('PyTorch: it is for')
    assert told(tmp_path, SHINEON_WINOGRAD='0') == 'PyTorch: SHINEON_WINOGRAD is 0 True'

@winograd
def test_no_home_and_no_room(tmp_path):
    (tmp_path/'file').write_text('')
    for env in (dict(XDG_CACHE_HOME=str(tmp_path/'file')), dict(XDG_CACHE_HOME='', HOME='/nowhere')):
        assert told(tmp_path, **env).startswith('Winograd')

@winograd
def test_threads_do_not_share_their_memory():
    torch.manual_seed(0)
    sizes = (16, 200), (96, 32), (48, 48), (130, 17)
    jobs = [(torch.randn(1, c, 40, 30), torch.randn(k, c, 3, 3)) for c,k in sizes]*6
    want = [conv3x3(x, w) for x,w in jobs]
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda job: conv3x3(*job), jobs))
    assert all(torch.equal(a, b) for a,b in zip(want, found))

@winograd
def test_a_network_learns_the_same():
    def gradients(direct):
        torch.manual_seed(0)
        net = UNetMask(ngf=32)
        clip = {k: torch.rand_like(x)*2 - 1 for k,x in toy_clips(2, 1, 128, 64).items()}
        if not direct: assert use_winograd(net) == 6
        out = net(clip)
        out['result'].square().mean().backward()
        return [out['result'], *(p.grad for p in net.parameters() if p.grad is not None)]
    ours,plain = gradients(False), gradients(True)
    assert len(ours) == len(plain) > 20
    assert not all(torch.equal(a, b) for a,b in zip(ours, plain)) # both ways were gone
    for a,b in zip(ours, plain): assert (a - b).norm() <= 1e-3*b.norm() + 1e-6

@winograd
def test_it_goes_with_its_network():
    "Copies, pickles and folded networks are as fast, and nothing in a state dict tells"
    torch.manual_seed(0)
    net = SamsGenerator(n_frames_total=2, ngf_pow_outer=4, ngf_pow_inner=5, num_middle=1).eval()
    clip = toy_clips(1, 2, 32, 32)
    names, plain = list(net.state_dict()), net(clip)['result']
    fitting = use_winograd(net)
    assert list(net.state_dict()) == names and fitting > 10
    copied = copy.deepcopy(net)
    for n in (net, copied): torch.testing.assert_close(n(clip)['result'], plain, atol=1e-4, rtol=0)
    assert not torch.equal(net(clip)['result'], plain) # it computes another way
    folded = for_inference(net)
    again = pickle.loads(pickle.dumps(folded)) # PyTorch does not pickle spectral norms
    for n in (folded, again): torch.testing.assert_close(n(clip)['result'], plain, atol=1e-4, rtol=0)
    for n in (copied, folded, again):
        assert sum(getattr(m, '_conv_forward', None) is conv3x3 for m in n.modules()) == fitting

switch = '''
import torch
from shineon.kernels.winograd import use_winograd
conv = torch.nn.Conv2d(16, 16, 3, padding=1)
print(use_winograd(conv), '_conv_forward' in vars(conv))
'''

def test_one_switch():
    assert run(switch, SHINEON_WINOGRAD='0') == '0 False'
