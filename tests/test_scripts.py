"""The scripts that people start with: they find or make an environment, and run the programs as typed."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data.phantoms.dataset import make_ct
from tests.programs import write_command

ROOT = Path(__file__).parent.parent
SMALL_CROPS = ("--scale", "2", "--input_rows", "16", "--input_cols", "16", "--input_deps", "8")
# What the scripts call beside Python; nproc and other tools of one system are not among them.
TOOLS = ("basename", "bash", "cat", "dirname", "rm")
NAMED = {"2": "chest", "3": "luna"}


@pytest.fixture
def machine(tmp_path):
    """A machine with few tools: the folder of its commands, and the environment in which it runs them."""
    commands = tmp_path / "its commands"
    commands.mkdir()
    for tool in TOOLS:
        (commands / tool).symlink_to(shutil.which(tool))
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "TMPDIR", "LD_LIBRARY_PATH")}
    return commands, {**kept, "PATH": str(commands), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def copy_checkout(folder):
    """The programs in a folder whose name has spaces, as a clone would have them."""
    unused = shutil.ignore_patterns(".*", "__pycache__", "benchmarks", "docs", "notebooks", "runs", "tests")
    return shutil.copytree(ROOT, folder / "a check out", ignore=unused)


def run_bash(*arguments, **settings):
    done = subprocess.run(["bash", *arguments], capture_output=True, text=True, timeout=300, **settings)
    return done.returncode, done.stdout, done.stderr


# What env.sh does.


def make_wheel(folder, name, needs=""):
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def project(tmp_path, machine):
    """A project of env.sh alone, which asks for a package that no interpreter has."""
    commands, environment = machine
    folder = tmp_path / "a check out"
    (folder / "utils").mkdir(parents=True)
    for file in ("env.sh", "utils/installed.py"):
        shutil.copy(ROOT / file, folder / file)
    (folder / "requirements.txt").write_text("tiny_one>=1,<2\nabsent>=1; python_version > '3'  # optional\n")
    make_wheel(tmp_path / "wheels", "tiny_one", "Requires-Dist: tiny_two; python_version > '3'\n")
    make_wheel(tmp_path / "wheels", "tiny_two", "Requires-Dist: tiny_three\n")
    make_wheel(tmp_path / "wheels", "tiny_three")
    write_command(commands / "python3", f'exec "{sys._base_executable}" "$@"')
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (tmp_path / "wheels").as_uri()}
    return folder


def source_env(project, machine):
    """Source env.sh in a script that has arguments of its own: (status, interpreter, what was said)."""
    script = 'set -euo pipefail; source "$0/env.sh"; [ "$*" = "LUNA16 DIR OUT" ]; echo "$PYTHON"'
    status, found, error = run_bash("-c", script, project, "LUNA16 DIR", "OUT", env=machine[1], cwd=project.parent)
    return status, found.strip(), error.replace(str(project), "").splitlines()


def test_an_environment_is_made_then_mended(project, machine):
    if subprocess.run([sys._base_executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("the interpreter below this one cannot make environments")
    python = project / ".venv/bin/python"
    status, found, said = source_env(project, machine)
    assert (status, found) == (0, str(python))
    assert said[0].startswith("env.sh: installing requirements.txt into /.venv") and len(said) == 2
    assert said[1] == "env.sh: going on without absent>=1; python_version > '3', which is optional"
    assert source_env(project, machine) == (0, str(python), [])

    (packages,) = project.glob(".venv/lib/python*/site-packages")
    # What pip leaves when it is killed: files without their list; a package that was unpacked in part; and one that
    # another one needs is gone.
    lost = [packages / name for name in ("tiny_one-1.0.dist-info/RECORD", "tiny_three/__init__.py", "tiny_two")]
    for broken in lost:
        shutil.rmtree(broken) if broken.is_dir() else broken.unlink()
    status, found, said = source_env(project, machine)
    assert (status, found, len(said)) == (0, str(python), 2) and all(broken.exists() for broken in lost), said
    assert source_env(project, machine) == (0, str(python), [])


def test_what_is_missing_is_said_in_one_line(project, machine):
    commands, environment = machine
    python = commands / "python3"
    write_command(python, f'case "$*" in *ensurepip*) exit 1 ;; esac; exec "{sys._base_executable}" "$@"')
    for expected in ("expected Python 3.11 or newer with venv and ensurepip, found none",) * 2:
        status, _, (_, said) = source_env(project, machine)
        assert status == 1 and expected in said
        python.unlink(missing_ok=True)

    environment["PYTHON"] = sys._base_executable
    status, _, said = source_env(project, machine)
    assert status == 1 and said[0] == f"env.sh: {sys._base_executable} lacks tiny_one>=1,<2"
    del environment["PYTHON"]

    (project / ".venv").mkdir()
    (project / ".venv" / "photos").write_text("")
    status, _, (_, said) = source_env(project, machine)
    assert status == 1 and "expected an environment in /.venv, found something else" in said
    assert (project / ".venv" / "photos").exists()

    (project / ".venv" / "pyvenv.cfg").write_text("")
    # Of an older Python.
    write_command(project / ".venv" / "bin" / "python", '[ -z "${2:-}" ]')
    status, _, (_, said) = source_env(project, machine)
    assert status == 1 and "expected Python 3.11 or newer in /.venv, found an older one" in said
    assert (project / ".venv" / "photos").exists()


def test_a_broken_environment_is_made_anew(project, machine):
    """With a stand-in for uv, whose first installation fails and leaves an empty environment."""
    commands, environment = machine
    environment |= {"REAL": sys._base_executable, "FAILS": str(project / "fails")}
    write_command(
        commands / "uv",
        'case "$1 $2" in "venv --quiet") "$REAL" -m venv --without-pip "$5" ;; *) [ ! -e "$FAILS" ] || exit 1\n'
        '"$REAL" -m pip --python "$5" install --quiet "${@:6}" ;; esac',
    )
    (project / "fails").write_text("")
    status, _, said = source_env(project, machine)
    assert status == 1 and "could not install requirements.txt" in said[-1]
    (project / "fails").unlink()
    python = project / ".venv/bin/python"
    for _ in range(2):
        status, found, said = source_env(project, machine)
        assert (status, found) == (0, str(python)) and "env.sh: /.venv is broken; making it anew" in said
        # The Python that made it is gone.
        python.unlink()
        python.symlink_to("/nowhere/python3")


def test_a_relative_interpreter_is_still_found_elsewhere(project, machine):
    commands, environment = machine
    (project / "requirements.txt").write_text("pip\nabsent>=1  # optional\n")
    environment |= {"PYTHON": f"{commands.name}/python3"}
    assert source_env(project, machine) == (0, f"{project.parent}/{commands.name}/python3", [])


# What the scripts run.


@pytest.mark.parametrize("script", ["run2d.sh", "run3d.sh"])
def test_wrong_arguments_end_before_anything_is_installed(script):
    for wrong in (["--help"], ["DIR"], ["--epochs", "3"], ["DIR", "--epochs", "3"]):
        status, out, error = run_bash(ROOT / script, *wrong, env={"PATH": os.environ["PATH"], "PYTHON": "/nowhere"})
        assert status == 2 and not out and error.startswith(f"usage: bash {script} [") and len(error.splitlines()) == 1


def test_a_mistyped_option_ends_run3d_before_the_preprocessing(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable}
    arguments = (ROOT / "run3d.sh", tmp_path, tmp_path / "out", "--epoch", "3")
    status, _, error = run_bash(*arguments, env=environment, cwd=tmp_path)
    assert status == 2 and error == "main.py: error: unrecognized arguments: --epoch 3\n"
    assert not (tmp_path / "out").exists()


def test_scripts_with_data_from_another_folder_with_spaces_in_every_path(tmp_path, machine, nih):
    """For real, in interpreters of their own; only the crops are smaller and fewer than the published ones."""
    commands, environment = machine
    write_command(
        commands / "python",
        f'case "$1" in *luna_preprocess.py) set -- "$@" {" ".join(SMALL_CROPS)} ;; esac\nexec "{sys.executable}" "$@"',
    )
    checkout = copy_checkout(tmp_path)
    before = set(checkout.rglob("*"))
    here = tmp_path / "a user's folder"
    here.mkdir()
    (here / "NIH 14").symlink_to(nih)
    make_ct(here / "LUNA 16", 3, seed=5, size=150)
    damaged = next(here.glob("LUNA 16/subset1/*.raw"))
    damaged.write_bytes(damaged.read_bytes()[:-1000])

    small = ["--epochs", "0", "--workers", "0", "--no-amp", "--device", "cpu"]
    views = ["--b", "8", "--global_size", "64", "--local_size", "32", "--encoder_weights", "none"]
    typed = {"2": ["NIH 14", "out 2d", *small, *views], "3": ["LUNA 16", "out 3d", *small, "--b", "2"]}
    started = {
        d: subprocess.Popen(
            ["bash", f"../a check out/run{d}d.sh", *arguments], cwd=here, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for d, arguments in typed.items()
    }  # fmt: skip
    for d, process in started.items():
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        assert (here / f"out {d}d" / f"pcrlv2_{NAMED[d]}_pretask_1.0_0.pt").exists(), output
        assert json.loads((here / f"out {d}d" / "run.json").read_text())["status"] == "finished"
    assert damaged.stem in (here / "out 3d" / "crops" / "manifest.json").read_text()
    assert set(checkout.rglob("*")) == before, "a run leaves nothing in the checkout"
