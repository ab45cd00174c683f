"Packaging: everything is read from settings.ini, so that nbdev and pip agree."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
settings = config["DEFAULT"]

LICENSES = {"apache2": "Apache-2.0"}
STATUS = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable"]
readme = here/"README.md"

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else settings["description"],
    long_description_content_type="text/markdown",
    url=settings["git_url"],
    author=settings["author"],
    author_email=settings["author_email"],
    license_expression=f'{LICENSES[settings["license"]]} AND GPL-3.0-or-later',  # the second: blender/ alone
    license_files=["LICENSE", "blender/COPYING"],
    keywords=settings["keywords"].split(),
    classifiers=[
        f"Development Status :: {STATUS[int(settings['status']) - 1]}",
        f"Intended Audience :: {settings['audience']}",
        f"Natural Language :: {settings['language']}",
        *[f"Programming Language :: Python :: {version}" for version in settings["python_versions"].split()],
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
    packages=find_packages(include=["htcv", "htcv.*"]),
    package_data={"htcv": ["*.json", "*.safetensors", "py.typed", "weights/*", "benchmark/*", "benchmark/**/*", "scenes/*"]},
    data_files=[("share/htcv/blender", ["blender/render_layers.py", "blender/COPYING"])],  # GPL: see blender/
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={"dev": settings["dev_requirements"].split() + settings["cluster_requirements"].split(),  # tests use it
                    **{extra: settings[f"{extra}_requirements"].split() for extra in ("raw", "onnx", "cluster")}},
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"],  # where backticks in the docs lead
    },
    zip_safe=False,
)
