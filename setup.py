"Reads every value from settings.ini: the one place for metadata and requirements."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters='=', interpolation=None)
cfg.read('settings.ini', encoding='utf8')
cfg = cfg['DEFAULT']
lines = lambda key: [o for o in cfg[key].splitlines() if o]
statuses = {'3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], license=cfg['license'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'].split(),
    long_description=Path('README.md').read_text(encoding='utf8'), long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']}",
    classifiers=[f"Development Status :: {statuses[cfg['status']]}", 'Intended Audience :: Science/Research',
                 'Framework :: Jupyter', 'Topic :: Scientific/Engineering :: Artificial Intelligence',
                 'Programming Language :: Python :: 3'],
    # run notebooks and presets travel as the data of packages of their own:
    # nbs/runs -> shineon/runs, experiments/presets -> shineon/presets
    packages=find_packages(include=['shineon*']) + ['shineon.runs', 'shineon.presets'],
    package_dir={'shineon.runs': 'nbs/runs', 'shineon.presets': 'experiments/presets'},
    package_data={'shineon': ['weights/*.safetensors', 'weights/*.yaml'], # trained networks and their cards
                  'shineon.runs': ['*.ipynb'], 'shineon.presets': ['*.yaml']},
    install_requires=lines('requirements'),
    extras_require={'dev': lines('dev_requirements'), 'docs': lines('docs_requirements')},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['shineon=shineon._modidx:d']},
)
