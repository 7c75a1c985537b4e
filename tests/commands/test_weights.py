import builtins
import functools
import http.server
import os
import threading

import pytest

from jaxinpaint import cli
from jaxinpaint.features import registry, store
from tests.features import toy


@pytest.fixture
def file(monkeypatch, tmp_path):
    return toy.furnish(monkeypatch, tmp_path)


@pytest.fixture
def run(capsys):
    def run(*words):
        try:
            code = cli.main(["weights", *map(str, words)])
        except SystemExit as left:  # argparse's own
            code = left.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *words):
        self.server.asked.append(self.path)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server of this machine alone, with a folder of its own."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        found.asked, found.folder = [], folder
        found.url = f"http://127.0.0.1:{found.server_port}"
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def publish(server, file, name="toy.safetensors"):
    (server.folder / name).write_bytes(file.read_bytes())
    found = registry.WEIGHTS["toy"]._replace(urls=(f"{server.url}/{name}",))
    registry.WEIGHTS["toy"] = found


def test_import_verify_list(file, run, tmp_path):
    code, out, _ = run("list")
    assert code == 0
    head, row, place = out.splitlines()
    assert head.split() == [
        "name",
        "state",
        "needed",
        "by",
        "size",
        "licence",
        "source",
    ]
    assert row.split()[:3] == ["toy", "missing", "tests"]
    assert place == f"store: {tmp_path / 'home' / 'weights'}"
    assert not (tmp_path / "home").exists()

    code, out, err = run("import", file, "--as", "toy")
    assert (code, err) == (0, "")
    assert out == (
        f"toy: imported toy.safetensors (SHA-256 {toy.sha256(file)}, as published)\n"
    )
    assert run("list")[1].splitlines()[1].split()[1] == "imported"
    code, out, _ = run("verify")
    assert code == 0
    assert out.startswith("toy: good; from toy.safetensors")


def test_nothing_to_verify_is_said(file, run, tmp_path):
    code, out, _ = run("verify")
    assert code == 0
    assert out == f"Nothing is imported in {tmp_path / 'home' / 'weights'}.\n"


def test_verify_names_what_failed_and_goes_on(file, run, tmp_path):
    registry.WEIGHTS["other"] = registry.WEIGHTS["toy"]
    for name in ("toy", "other"):
        assert run("import", file, "--as", name)[0] == 0
    manifest = tmp_path / "home/weights/toy/manifest.json"
    text = manifest.read_text()
    at = text.index('"sha256": "') + 12
    swapped = "0" if text[at] != "0" else "1"
    manifest.write_text(text[:at] + swapped + text[at + 1 :])
    code, out, _ = run("verify")
    assert code == 1
    bad, good = out.splitlines()
    assert bad.startswith("toy: ") and "--replace" in bad
    assert good.startswith("other: good")
    assert run("list")[1].splitlines()[1].split()[1] == "damaged"


def test_verify_of_missing_weights_fails(file, run):
    code, out, _ = run("verify", "toy")
    assert code == 1
    assert "jaxinpaint weights import FILE --as toy" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "ACTION"),
        (["remove"], "invalid choice"),
        (["import", "FILE"], "--as"),
        (["import", "--as", "toy"], "give a FILE to import, or --download"),
        (["import", "FILE", "--as", "toy", "--download"], "or --download and none"),
        (["import", "--as", "toy", "--download", "--unverified"], "--unverified"),
        (["import", "FILE", "--as", "vgg"], "the names are ['toy']"),
        (["import", "--as", "../toy", "--download"], "the names are ['toy']"),
        (["verify", "vgg"], "the names are ['toy']"),
        (["import", "/absent", "--as", "toy"], "/absent"),
    ],
)
def test_wrong_use_is_exit_code_two(file, run, words, message):
    code, out, err = run(*(file if word == "FILE" else word for word in words))
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_another_file_is_refused_in_one_line(file, run, tmp_path):
    other = toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1))
    code, _, err = run("import", other, "--as", "toy")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("jaxinpaint weights: ")
    assert "is not the published toy.safetensors of toy" in err
    code, out, _ = run("import", other, "--as", "toy", "--unverified")
    assert code == 0
    assert "NOT the published file" in out
    assert "imported, unverified" in run("list")[1]
    assert "not the published file" in run("verify")[1]


def test_importing_twice_needs_replace(file, run):
    assert run("import", file, "--as", "toy")[0] == 0
    code, _, err = run("import", file, "--as", "toy")
    assert code == 2 and "--replace" in err
    assert run("import", file, "--as", "toy", "--replace")[0] == 0


def test_download(file, run, server, tmp_path):
    pytest.importorskip("pooch")
    publish(server, file)
    code, out, err = run("import", "--download", "--as", "toy")
    assert code == 0
    assert "as published" in out
    assert server.asked == ["/toy.safetensors"]
    assert store.verify("toy").sha256 == toy.sha256(file)
    assert os.listdir(tmp_path / "home/downloads") == []
    # What is here is not asked for again.
    code, _, err = run("import", "--download", "--as", "toy")
    assert code == 2 and "--replace" in err
    assert len(server.asked) == 1


def test_a_download_with_another_digest_is_refused(file, run, server, tmp_path):
    pytest.importorskip("pooch")
    publish(server, toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1)))
    code, _, err = run("import", "--download", "--as", "toy")
    assert code == 2
    assert "hash" in err
    assert store.record_of("toy") is None
    assert os.listdir(tmp_path / "home/downloads") == []


def test_a_prefix_alone_refuses_a_download_too(monkeypatch, run, server, tmp_path):
    pytest.importorskip("pooch")
    file = toy.furnish(monkeypatch, tmp_path)
    toy.furnish(monkeypatch, tmp_path, sha256=toy.sha256(file)[:8])
    publish(server, toy.write_safetensors(tmp_path / "other", toy.tensors(seed=1)))
    code, _, err = run("import", "--download", "--as", "toy")
    assert code == 2 and "is not the published" in err
    publish(server, file)
    assert run("import", "--download", "--as", "toy")[0] == 0


def test_the_next_address_is_tried(file, run, server, tmp_path):
    pytest.importorskip("pooch")
    publish(server, file)
    entry = registry.WEIGHTS["toy"]
    registry.WEIGHTS["toy"] = entry._replace(urls=(f"{server.url}/gone", *entry.urls))
    assert run("import", "--download", "--as", "toy")[0] == 0
    assert server.asked == ["/gone", "/toy.safetensors"]


def test_no_address_is_one_clear_error(file, run, server):
    pytest.importorskip("pooch")
    publish(server, file)
    (server.folder / "toy.safetensors").unlink()
    code, _, err = run("import", "--download", "--as", "toy")
    assert code == 2
    last = err.splitlines()[-1]
    assert "404" in last and "jaxinpaint weights import FILE --as toy" in last


def test_without_pooch_the_extra_is_named(file, run, monkeypatch):
    given = builtins.__import__

    def without(name, *rest):
        if name == "pooch":
            raise ImportError("No module named 'pooch'")
        return given(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = run("import", "--download", "--as", "toy")
    assert code == 2
    assert "jaxinpaint[weights]" in err


def test_a_terminal_gets_a_table_with_everything_in_it(file, run, monkeypatch):
    address = "https://example.org/" + "long/" * 20
    changed = registry.WEIGHTS["toy"]._replace(urls=(address,))
    monkeypatch.setitem(registry.WEIGHTS, "toy", changed)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, out, _ = run("list")
    assert code == 0
    assert "┃" in out
    rows = [line.split("│") for line in out.splitlines() if "│" in line]
    assert "".join(row[-2].strip() for row in rows) == address
    squeezed = "".join(out.split())
    for word in ("toy", "missing", "tests", "unknown", "none"):
        assert word in squeezed
