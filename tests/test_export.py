"`shineon export`: a network for other programs, by the ending of the file's name"
import pytest, torch

from shineon.cli.main import main
from shineon.models.files import load_model, save_model
from shineon.models.unetmask import UNetMask

@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path/'unet.pt', UNetMask(ngf=8), options=dict(fine_height=64, fine_width=128))
    return tmp_path/'unet.pt'

def frame(b): return [torch.randn(b, c, 64, 128) for c in (4, 3, 3)] # agnostic, densepose, warped_cloth

names = 'agnostic', 'densepose', 'warped_cloth'

def ours(checkpoint, xs):
    clip = {n: x[:,None] for n,x in zip(names, xs)}
    with torch.no_grad(): return load_model(checkpoint)(clip)['result'][:,0]

def test_torchscript(checkpoint, tmp_path, capsys):
    assert main(['export', str(checkpoint), str(tmp_path/'unet.torchscript')]) == 0
    assert capsys.readouterr().out.strip().endswith('unet.torchscript')
    about, xs = {'names': ''}, frame(3)
    net = torch.jit.load(str(tmp_path/'unet.torchscript'), _extra_files=about)
    inputs, outputs = about['names'].decode().splitlines()
    assert inputs == 'agnostic densepose warped_cloth' and outputs.split()[0] == 'result'
    torch.testing.assert_close(net(*xs)[0], ours(checkpoint, xs), atol=1e-4, rtol=0)

def test_onnx(checkpoint, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    assert main(['export', str(checkpoint), str(tmp_path/'unet.onnx')]) == 0
    net, xs = runtime.InferenceSession(str(tmp_path/'unet.onnx')), frame(3)
    assert [i.name for i in net.get_inputs()] == [*names]
    result, = net.run(['result'], dict(zip(names, (x.numpy() for x in xs))))
    torch.testing.assert_close(torch.from_numpy(result), ours(checkpoint, xs), atol=1e-4, rtol=0)

def test_other_names_are_refused(checkpoint, tmp_path, capsys):
    assert main(['export', str(checkpoint), str(tmp_path/'unet.bin')]) == 2
    assert '.onnx' in capsys.readouterr().err and not (tmp_path/'unet.bin').exists()
