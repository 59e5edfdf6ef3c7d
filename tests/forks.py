"""Processes that begin with everything imported: a server forks them, for tests that start many commands and kernels.

Each command and each kernel is a process of its own, as it is for a user; it is spared the ten seconds in which Python
imports torch, fastai and Jupyter. Some tests of signals, environments and the start itself begin Python anew."""
import array, importlib, json, os, select, signal, socket, subprocess, sys, tempfile, threading, time, traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

root = Path(__file__).resolve().parent.parent
possible = sys.platform == 'linux'
# `shineon` before torchvision
imported = ('shineon', 'torch', 'fastai.vision.all', 'fastcore.test', 'matplotlib.pyplot', 'papermill', 'anywidget',
            'ipykernel.kernelapp', 'ipywidgets', 'av', 'cv2', 'torchmetrics', 'torch.utils.tensorboard', 'torchvision',
            'shineon.cli.main', 'shineon.cli.processes', 'shineon.models.networks', 'shineon.data.layouts',
            'shineon.train.learner')


# What runs in a new process

def command(argv):
    "As `python -m shineon.cli.main`"
    sys.path.insert(0, os.getcwd())
    sys.argv = ['shineon', *argv]
    return importlib.import_module('shineon.cli.main').main(argv)


def kernel(argv):
    "A notebook's kernel; pictures go into its outputs"
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance
    sys.argv = ['kernel', *argv]
    os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'
    matplotlib.rcParams['backend'] = os.environ['MPLBACKEND'] # imported with the first figure, when the kernel is there
    launch_new_instance(argv)


def settle(request, streams):
    "Take the folder, the environment and the streams that were asked for, and signals as a new Python has them"
    for number, fd in enumerate(streams): os.dup2(fd, number)
    os.closerange(3, 256)
    by_fork()
    for s in (signal.SIGTERM, signal.SIGCHLD): signal.signal(s, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    tempfile.tempdir = None # it is looked for anew
    lines = 1 if 'PYTHONUNBUFFERED' in os.environ else -1
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        stream = open(number, 'w' if number else 'r', lines, encoding='utf8', closefd=False)
        setattr(sys, name, stream), setattr(sys, f'__{name}__', stream)


def run(request, streams):
    "Do what was asked for; this process ends with it"
    status = 1
    try:
        settle(request, streams)
        status = dict(command=command, kernel=kernel)[request['kind']](request['argv']) or 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str): print(e.code, file=sys.stderr)
    except BaseException: traceback.print_exc()
    finally:
        with suppress(BaseException): threading._shutdown()
        with suppress(BaseException): importlib.import_module('atexit')._run_exitfuncs()
        for s in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError): s.flush()
        os._exit(status)


# The server

def request_of(connection):
    "A request, and the file descriptors of its streams"
    data, ancillary, *_ = connection.recvmsg(1 << 20, socket.CMSG_LEN(3*array.array('i').itemsize))
    streams = array.array('i')
    for _, _, fds in ancillary: streams.frombytes(fds)
    while not data.endswith(b'\n'): data += connection.recv(1 << 20)
    return json.loads(data), streams


def in_a_session_of_its_own(request, streams):
    "Fork the process that was asked for: its number, once signals to its group meet nobody else"
    begun, begins = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        os.close(begins)
        run(request, streams)
    os.close(begins)
    os.read(begun, 1)
    os.close(begun)
    return pid


def keep(connection):
    "Start what a connection asks for, say its number, then its exit status; it is killed when nobody waits for it"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams = request_of(connection)
    pid = in_a_session_of_its_own(request, streams)
    connection.sendall(f'{pid}\n'.encode())
    for fd in streams: os.close(fd)
    ended, poll = os.pidfd_open(pid), select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(connection, select.POLLHUP)
    if not any(fd == ended for fd, _ in poll.poll()): os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError): connection.sendall(f'{status}\n'.encode())


def kept_by_another(connection, asked):
    "Answer in a process of its own, so that the server, which hears of requests through `asked`, is free at once"
    if not os.fork():
        asked.close()
        connection.settimeout(None)
        try: keep(connection)
        finally: os._exit(0)
    connection.close()


def serve(path, owner):
    "Answer requests at the socket `path` as long as the process `owner` lives"
    for name in imported: importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN) # nobody waits for those who keep a process
    asked = socket.socket(socket.AF_UNIX)
    asked.bind(path)
    asked.listen(64)
    asked.settimeout(1)
    while Path(f'/proc/{owner}').exists():
        try: connection = asked.accept()[0]
        except TimeoutError: continue
        kept_by_another(connection, asked)


# Who asks

def announce(folder):
    "Say to this process and its children where the server will be: they start it when they first need it"
    os.environ.update(SHINEON_FORKS=f'{folder}/forks', SHINEON_FORKS_OWNER=str(os.getpid()))


def connect():
    "A connection to the server, which the first one to ask starts"
    from filelock import FileLock
    path = os.environ['SHINEON_FORKS']
    def there():
        connection = socket.socket(socket.AF_UNIX)
        try: connection.connect(path)
        except OSError: return connection.close()
        return connection
    if found := there(): return found
    with FileLock(f'{path}.lock'):
        if found := there(): return found
        words = [sys.executable, __file__, path, os.environ['SHINEON_FORKS_OWNER']]
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        while not (found := there()):
            assert server.poll() is None, 'the server of processes did not start'
            time.sleep(.1)
    return found


class Process:
    "A process of the server's, with what `subprocess.Popen` has"
    stdin = stdout = stderr = None
    def __init__(self, connection, kind, argv, cwd, env, streams):
        self.connection, self.args, self.returncode, self.said = connection, argv, None, b''
        request = dict(kind=kind, argv=[*map(str, argv)], cwd=str(cwd or os.getcwd()), env=env)
        fds = array.array('i', [s if isinstance(s, int) else s.fileno() for s in streams])
        self.connection.sendmsg([json.dumps(request).encode() + b'\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        self.pid = int(self.line())

    def line(self):
        while b'\n' not in self.said:
            more = self.connection.recv(64)
            if not more: return b'-9' # the server was killed, and all that it kept
            self.said += more
        line, _, self.said = self.said.partition(b'\n')
        return line

    def poll(self):
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]: self.wait()
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is not None: return self.returncode
        if not select.select([self.connection], [], [], timeout)[0]: raise subprocess.TimeoutExpired(self.args, timeout)
        self.returncode = int(self.line())
        self.connection.close()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def terminate(self): self.send_signal(signal.SIGTERM)

    def kill(self): self.send_signal(signal.SIGKILL)


class Watched(Process):
    "One whose output is read while it runs"
    def __enter__(self): return self

    def __exit__(self, *_):
        for f in filter(None, (self.stdout, self.stderr)): f.close()
        self.wait()

    def communicate(self, input=None, timeout=None):
        with ThreadPoolExecutor() as pool: said = [*pool.map(lambda f: f and f.read(), (self.stdout, self.stderr))]
        self.wait(timeout)
        return said


def watched(connection, argv, cwd=None, env=None, stdout=None, stderr=None, text=False):
    "Begin a command; the streams are what `subprocess.Popen` calls them"
    pipes = {}
    def end(where, name): # of a stream, where the command writes
        if where is None: return getattr(sys, f'__{name}__')
        if where == subprocess.DEVNULL: return nothing
        if where != subprocess.PIPE: return where
        pipes[name] = os.pipe()
        return pipes[name][1]
    with open(os.devnull, 'r+') as nothing:
        out = end(stdout, 'stdout')
        streams = nothing, out, out if stderr == subprocess.STDOUT else end(stderr, 'stderr')
        process = Watched(connection, 'command', argv, cwd, env or dict(os.environ), streams)
    for name, (reads, writes) in pipes.items():
        os.close(writes)
        setattr(process, name, open(reads, encoding='utf8') if text else open(reads, 'rb'))
    return process


def begin(argv, cwd, env, quiet):
    "Begin a command; what it prints can be read, or nobody hears it when `quiet`"
    to = subprocess.DEVNULL if quiet else subprocess.PIPE
    return watched(connect(), argv, cwd, env, to, to, text=True)


def stand_in(argv):
    "Ask the server for a kernel: signals go on to it, and its end is that of this process"
    kernel = Process(connect(), 'kernel', argv, None, dict(os.environ), (0, 1, 2))
    for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda n, _: kernel.send_signal(n))
    return kernel.wait()


def kernels_of_servers(folder):
    "What a Jupyter server's environment needs, so that its kernels are forks, too"
    if not possible: return {}
    spec = Path(folder)/'forks'/'kernels'/'python3'/'kernel.json'
    spec.parent.mkdir(parents=True)
    words = [sys.executable, __file__, 'kernel', '-f', '{connection_file}']
    spec.write_text(json.dumps(dict(argv=words, display_name='Python 3', language='python')))
    return dict(JUPYTER_PATH=str(Path(folder)/'forks'))


def nursery():
    """A child of this process that forks kernels, before this process has threads or an event loop: a socket to it.

    They descend from this process, which is what a run's lock asks for."""
    here, there = socket.socketpair()
    if os.fork():
        there.close()
        return here
    here.close()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while fds := socket.recv_fds(there, 1, 1)[1]: kept_by_another(socket.socket(fileno=fds[0]), there)
    os._exit(0)


def asked_of(nurse):
    "A connection to a new process of a nursery's"
    here, there = socket.socketpair()
    socket.send_fds(nurse, [b'.'], [there.fileno()])
    there.close()
    return here


def by_fork():
    "Let kernels and commands that this process starts, a launcher's, too, be forks of it as it is now"
    from jupyter_client.provisioning import local_provisioner
    from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler
    nurse, begin_one = nursery(), SubprocessHandler._popen
    def launch_kernel(cmd, cwd=None, env=None, stdout=None, stderr=None, **kw):
        streams = (s or f for s, f in zip((stdout, stderr), (sys.__stdout__, sys.__stderr__)))
        with open(os.devnull) as nothing:
            words = cmd[cmd.index('-f'):]
            return Process(asked_of(nurse), 'kernel', words, cwd, env or dict(os.environ), (nothing, *streams))
    class Popen(subprocess.Popen):
        def __new__(cls, words, *args, stdin=None, start_new_session=False, **how):
            argv = None if args or stdin == subprocess.PIPE or set(how) - understood else command_in(words)
            return super().__new__(cls) if argv is None else watched(asked_of(nurse), argv, **how)
    def one_of_several(handler, words, env):
        if 'shineon.cli.main' not in words[2]: return begin_one(handler, words, env)
        with open(os.devnull) as nothing:
            streams = nothing, handler._stdout or sys.__stdout__, handler._stderr or sys.__stderr__
            return Process(asked_of(nurse), 'command', words[3:], None, env, streams)
    local_provisioner.launch_kernel, subprocess.Popen, SubprocessHandler._popen = launch_kernel, Popen, one_of_several


understood = {'cwd', 'env', 'stdout', 'stderr', 'text'} # what `watched` is told of a process

def command_in(words):
    "The words of a `shineon` command among those that start it; None for another program"
    if not isinstance(words, list) or len(words) < 3 or words[0] != sys.executable: return None
    by_name = words[1:3] == ['-m', 'shineon.cli.main']
    by_code = words[1] == '-c' and words[2].endswith(whole_command)
    return words[3:] if by_name or by_code else None


whole_command = 'from shineon.cli.main import main; sys.exit(main())' # as the package starts one of its own

def run_command(argv, cwd, env, timeout):
    "`shineon` with some words: exit status, what it printed, what it complained about"
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Process(connect(), 'command', argv, cwd, env, (nothing, out, err))
        try: status = process.wait(timeout)
        except subprocess.TimeoutExpired: process.kill(); raise
        for f in (out, err): f.seek(0)
        return status, *(f.read().decode(errors='replace') for f in (out, err))


if __name__ == '__main__':
    sys.path[:] = [str(root), *(p for p in sys.path if p != str(Path(__file__).parent))]
    if sys.argv[1] == 'kernel': sys.exit(stand_in(sys.argv[2:]))
    serve(sys.argv[1], sys.argv[2])
