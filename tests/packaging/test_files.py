"""What files look like: size, docstrings, and nothing that belongs to one machine."""

from __future__ import annotations

import ast
import re

import pytest

from .tree import BENCHMARKS, KERNELS, PACKAGE, ROOT, module_files, text_files

SOURCES = sorted(
    [
        *PACKAGE.rglob("*.py"),
        *KERNELS.rglob("*.py"),
        *BENCHMARKS.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(path for path in (ROOT / "csrc").rglob("*") if path.is_file()),
        ROOT / "setup.py",
    ]
)
TREES = {module: ast.parse(path.read_text()) for module, path in module_files().items()}
TREES |= {
    f"benchmarks.{module}".rstrip("."): ast.parse(path.read_text()) for module, path in module_files(BENCHMARKS).items()
}
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|mnt|scratch)/\w")
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX)\b")


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_source_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", TREES)
def test_a_function_fits_a_screen(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 60, node.name


@pytest.mark.parametrize("module", TREES)
def test_everything_public_has_a_docstring(module):
    assert ast.get_docstring(TREES[module])
    for node in TREES[module].body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("module", TREES)
def test_a_section_of_a_docstring_has_no_empty_line_before_its_end(module):
    for node in ast.walk(TREES[module]):
        text = (ast.get_docstring(node) or "") if isinstance(node, Documented) else ""
        for section in re.finditer(r"^(?:Args|Returns|Raises):\n(?: .*\n)*\n(?= )", f"{text}\n", re.MULTILINE):
            pytest.fail(f"{node.name}: {section[0]}")


@pytest.mark.parametrize("module", [m for m, path in module_files().items() if path.name == "__init__.py"])
def test_exports_are_declared_and_exist(module):
    imported = [a.asname or a.name for n in TREES[module].body if isinstance(n, ast.ImportFrom) for a in n.names]
    declared = [n.value for n in TREES[module].body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"]
    if imported:
        assert sorted(ast.literal_eval(declared[0])) == sorted(imported)


@pytest.mark.parametrize("path", text_files(), ids=name)
def test_text_is_utf8_and_finished_and_names_no_machine(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not MACHINE_PATH.search(line), f"line {number}: {line}"
        assert not UNFINISHED.search(line), f"line {number}: {line}"


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users"])
@pytest.mark.parametrize("text", ["see /{}/me/data", "open('/{}/x')", "/{}/main", "PATH=/{}/a:/usr/bin"])
def test_a_machine_path_is_found(text, folder):
    assert MACHINE_PATH.search(text.format(folder))


@pytest.mark.parametrize("text", ["a/work/b", "https://host/work/x", "/tmp/x", "./work/main", "rest/root/x"])
def test_another_path_is_left_alone(text):
    assert not MACHINE_PATH.search(text)
