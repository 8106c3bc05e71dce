"""The examples of launchers: they parse, and every flag in them is one that torchrun and the command line know."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from esvit_fast.cli import pretrain as commands
from esvit_fast.config import load_config
from esvit_fast.parallel.ranks import accumulation_steps

EXAMPLES = Path(__file__).parents[2] / "examples"
SLURM = {"SLURM_NNODES": "4", "SLURM_JOB_ID": "7", "data": "/images", "run": "/runs/a", "head": "node1"}


def slurm_command():
    text = (EXAMPLES / "slurm.sbatch").read_text().replace("\\\n", " ")
    text = re.sub(r"\$\{SLURM_RESTART_COUNT:-0\}", "0", text)
    line = next(line for line in text.splitlines() if line.startswith("srun "))
    return [re.sub(r"\$(\w+)", lambda name: SLURM[name[1]], word) for word in shlex.split(line)]


def kubernetes():
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))


def container():
    return kubernetes()[1]["spec"]["template"]["spec"]["containers"][0]


def commands_of_the_readme():
    text = (EXAMPLES / "README.md").read_text()
    found = re.findall(r"`((?:torchrun|esvit-fast) [^`\n]*--recipe [^`\n]+)`", text)
    found += re.findall(r"^(torchrun --.*)$", text, re.MULTILINE)
    assert len(found) == 3
    return [shlex.split(command) for command in found]


def called(monkeypatch, words):
    """What torchrun would be asked for, and the call that the command line would make."""
    launch = None
    if words[0] == "torchrun":
        launch = parse_args(words[1:])
        assert launch.module and launch.training_script == "esvit_fast"
        words = ["esvit-fast", *launch.training_script_args]
    seen = {}
    monkeypatch.setattr(
        "esvit_fast.training.pretrain", lambda config, out, *_, **options: seen.update(config=config, **options)
    )
    monkeypatch.setattr("esvit_fast.training.resume", lambda out, *_: seen.update(resumed=str(out)))
    monkeypatch.setattr(commands, "run", lambda call, out, device: call(None, None))
    getattr(commands, words[1])(words[2:])
    return launch, seen


@pytest.mark.parametrize("words", [slurm_command()[2:], container()["command"]], ids=["slurm", "kubernetes"])
def test_four_nodes_train_the_published_batch(monkeypatch, words):
    launch, seen = called(monkeypatch, words)
    ranks = int(launch.nnodes) * int(launch.nproc_per_node)
    train = seen["config"].train
    assert (ranks, train.batch_size, accumulation_steps(train, ranks)) == (32, 512, 1)
    assert seen["or_resume"] and launch.max_restarts == 10
    assert launch.rdzv_backend == "c10d" and launch.rdzv_id != "none" and launch.rdzv_endpoint.endswith(":29500")


def test_the_commands_of_the_readme(monkeypatch, tmp_path):
    for words in commands_of_the_readme():
        if "resume" in words:
            launch, rest = words[: words.index("-m")], words[words.index("-m") :]
            assert parse_args([*launch[1:], *rest]).training_script_args == ["resume", "runs/a"]
            continue
        launch, seen = called(monkeypatch, words)
        ranks = int(launch.nproc_per_node) if launch else 1
        assert accumulation_steps(seen["config"].train, ranks) == {1: 8, 8: 1}[ranks]
        assert seen["config"] == load_config("swin_tiny_w7").__class__(
            **vars(load_config("swin_tiny_w7")) | {"data": seen["config"].data}
        )


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_the_batch_script_is_bash_and_asks_slurm_for_what_torchrun_uses():
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script.read_text(), re.MULTILINE))
    assert asked["nodes"] == "4" and asked["ntasks-per-node"] == "1"
    words = slurm_command()
    assert asked["gpus-per-node"] == words[words.index("--nproc-per-node") + 1]
    missing = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert missing.returncode != 0 and "images" in missing.stderr


def test_the_pods_find_each_other():
    service, job = kubernetes()
    spec, words = job["spec"], container()["command"]
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert spec["completions"] == spec["parallelism"] == int(words[words.index("--nnodes") + 1])
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    host = words[words.index("--rdzv-endpoint") + 1]
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert container()["resources"]["limits"]["nvidia.com/gpu"] == words[words.index("--nproc-per-node") + 1]
    mounts = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
