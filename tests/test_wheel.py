"""The wheel: what it holds, and that it works in an empty environment."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from book import ROOT, settings
from book.exports import exported_modules
from tests.conftest import skip_or_fail

CONTRACT = """
import tempfile
import torch
import hlstm

text = hlstm.load_corpus("shakespeare")
assert len(text) > 4_000_000
vocab = hlstm.Vocabulary.from_text(text)
assert vocab.decode(vocab.encode("To be")) == "To be"
ids = vocab.encode(text[:4000])
assert ids.dtype == torch.long
assert hlstm.one_hot(ids[:6].view(2, 3), len(vocab)).shape == (2, 3, len(vocab))

cell = hlstm.LSTMCell(3, 4, bias=True, device=None, dtype=torch.float64)
torch.nn.LSTMCell(3, 4, dtype=torch.float64).load_state_dict(cell.state_dict())
rnn = hlstm.LSTM(3, 4, num_layers=2, bias=True, batch_first=False, dropout=0.0)
torch.nn.LSTM(3, 4, num_layers=2).load_state_dict(rnn.state_dict())

net = hlstm.DeepRNN(vocab, hidden_size=16, num_layers=2, dropout=0.0)
logits, (h, c) = net(ids[:6].view(2, 3), state=None)
assert logits.shape == (2, 3, len(vocab)) and h.shape == c.shape == (2, 2, 16)
sample = net.generate_text(
    "ROMEO:", length=20, temperature=0.8, top_k=None, top_p=None, seed=0
)
assert sample.startswith("ROMEO:") and len(sample) == 26
assert abs(float(hlstm.boltzmann(logits[0, 0], 0.5).sum()) - 1) < 1e-6

logits.sum().backward()
assert float(hlstm.clip_grad_norm_(net.parameters(), max_norm=1.0)) > 0
config = hlstm.TrainConfig(steps=3, batch_size=4, sequence_length=8)
before = hlstm.evaluate(net, ids)
hlstm.Trainer(net, config).fit(ids, ids[:1000])
assert hlstm.evaluate(net, ids) < before

net.save("model.safetensors")
again = hlstm.load_model("model.safetensors")
assert torch.equal(again(ids[None, :9])[0], net.eval()(ids[None, :9])[0])
assert hlstm.load_pretrained("shakespeare").generate_text("A", length=5)
star = {}
exec("from hlstm import *", star)
assert set(hlstm.__all__) <= star.keys()
print("contract holds")
"""


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it prints."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built by way of the source archive."""
    target = tmp_path_factory.mktemp("dist")
    copy = tmp_path_factory.mktemp("source") / "tree"
    files = command("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    run = command(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", target, cwd=copy
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert len(list(target.glob("*.tar.gz"))) == 1
    return next(target.glob("*.whl"))


def test_contents(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        head = next(n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = archive.read(head).decode()
    package = {path for path in tracked if path.startswith("hlstm/")}
    assert names == package - {
        p for p in package if p.endswith((".gitkeep", "_modidx.py"))
    }
    assert {f"hlstm/{name}.py" for name in exported_modules(ROOT)} <= names
    assert "hlstm/py.typed" in names
    needs = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert sorted(needs) == sorted(settings()["requirements"].split())


def test_contract_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """pip installs the wheel and what it requires, and nothing else is there."""
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    here = [sys.executable, "-m"]
    run = command(*here, "venv", "--without-pip", venv, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    pip = [*here, "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    pins = ["--retries", "1", "--constraint", str(ROOT / "constraints.txt")]
    run = command(*pip, *pins, wheel, cwd=tmp_path)
    if run.returncode and re.search(
        "NewConnection|NameResolution|Timeout|Proxy", run.stderr
    ):
        skip_or_fail("no network to install the wheel's requirements from")
    assert run.returncode == 0, run.stderr[-2000:]
    empty = tmp_path / "empty"
    empty.mkdir()
    run = command(python, "-c", CONTRACT, cwd=empty)
    assert run.stdout.strip().endswith("contract holds"), run.stderr[-2000:]
