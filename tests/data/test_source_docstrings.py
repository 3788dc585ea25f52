import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from graftlm.data.settings import DocstringsData
from graftlm.data.sources import check_source, open_source
from graftlm.data.sources.docstring_text import read_docstring
from graftlm.data.sources.docstrings import DocstringSource, chosen, dependencies, raw_docstrings, source_files
from graftlm.errors import DataError

SOME = ["rich", "jinja2", "filelock", "packaging"]


def settings(**values: object) -> DocstringsData:
    return DocstringsData("docstrings", "docstrings", **values)  # type: ignore[arg-type]


def test_summary_and_body_are_prose() -> None:
    found = read_docstring("""
    resize(image, size=(1, 2)) -> Image

    Resize an :class:`~lib.Image` to a new
    size, e.g. a smaller one. The **ratio** may change.

    Parameters
    ----------
    image : ``Image``
        What to resize.

    Examples
    --------
    >>> resize(a)
    <Image>

    .. code-block:: python

        resize(b)

    .. versionadded:: 1.2
    """)
    assert found.summary == "Resize an Image to a new size, e.g. a smaller one."
    assert found.body == "The ratio may change. Parameters: image : Image What to resize."


@pytest.mark.parametrize(
    ("raw", "summary", "body"),
    [
        ("", "", ""),
        ("One line", "One line", ""),
        ("Do it.\n\n:param x: the thing\n:type x: int", "Do it.", "x: the thing x: int"),
        ("Do it.\n\n```python\ncode()\n```\nThen rest.", "Do it.", "Then rest."),
        ("Use [`~a.B`] and [docs](https://x.y).\n\nMore.", "Use B and docs.", "More."),
        ("Do it::\n\n    code()\n\nMore.", "Do it:", "More."),
        ("f(a,\n  b)\n\nAdd both.\n\nMore.", "Add both.", "More."),
    ],
)
def test_conventions(raw: str, summary: str, body: str) -> None:
    found = read_docstring(raw)
    assert (found.summary, found.body) == (summary, body)


def test_all_kinds_of_definitions_are_read_in_order() -> None:
    code = b'''"""module"""
class A:
    """class"""
    def f(self):
        """method"""
        def inner():
            """inner"""
if True:
    async def g():
        """conditional"""
add_docstr(torch.abs, r"""abs(x)

attached
""".format(a=1))
x = """no docstring"""
'''
    words = [raw.split()[-1] for raw in raw_docstrings(code)]
    assert words == ["module", "attached", "class", "method", "inner", "conditional"]


def test_a_file_that_is_not_python_gives_nothing() -> None:
    assert list(raw_docstrings(b'{{ template }} """x"""')) == []
    assert list(raw_docstrings(b'\x00"""x"""')) == []


def test_pairs_of_installed_packages() -> None:
    source = open_source(settings(packages=SOME, min_body=100))
    pairs, texts = list(source.pairs()), list(source.texts())
    assert len(pairs) > 200
    assert len(texts) > len(pairs)
    assert {pair.group for pair in pairs} == {"rich", "jinja", "filelock", "packaging"}
    assert len({pair.source.casefold() for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert len(pair.source) >= 100
        assert 3 <= len(pair.target.split()) <= 40
        assert ">>>" not in pair.source
        assert "\n" not in pair.source + pair.target
        assert pair.target.rstrip(".").casefold() not in pair.source.casefold()
        assert pair.source_lang == pair.target_lang == "en_XX"
    assert pairs == list(open_source(settings(packages=SOME, min_body=100)).pairs())


def test_the_default_is_what_graftlm_needs() -> None:
    found = chosen(settings())
    assert {"torch", "transformers", "numpy", "rich"} <= set(found)
    assert "graftlm" not in found
    assert "pytest" not in found, "belongs to an extra"
    assert list(found) == sorted(found)
    assert set(dependencies("rich")) == {"markdown-it-py", "mdurl", "pygments"}


def test_excluded_packages_are_not_read() -> None:
    assert "torch" not in chosen(settings(exclude=["Torch"]))


def test_tests_and_vendored_copies_are_left_out() -> None:
    files = source_files(chosen(settings())["numpy"])
    assert files
    assert all(file.suffix == ".py" for file in files)
    assert not [file for file in files if "tests" in Path(file).parts]


def test_the_fingerprint_names_versions_and_needs_no_reading() -> None:
    source = DocstringSource(settings(packages=["rich"]))
    print_ = source.fingerprint()
    assert print_["packages"] == [["rich", version("rich")]]
    assert source._read is None


def test_a_package_that_is_not_installed_is_named() -> None:
    wrong = settings(packages=["rich", "no-such-package"])
    (problem,) = check_source(wrong)
    assert "data.packages=no-such-package" in str(problem)
    assert "pip install no-such-package" in str(problem)
    with pytest.raises(DataError, match="no-such-package"):
        list(open_source(wrong).texts())


def test_nothing_left_is_a_problem() -> None:
    (problem,) = check_source(settings(packages=["rich"], exclude=["rich"]))
    assert "leaves no package" in str(problem)


def test_checking_every_kind_imports_no_heavy_library() -> None:
    code = (
        "import sys; import graftlm.data.sources.docstrings, graftlm.data.sources.catalogues, "
        "graftlm.data.sources.files, graftlm.data.sources.hub, graftlm.data.sources.mixture, graftlm.data.inspect;"
        "from graftlm.data.settings import DocstringsData; from graftlm.data.sources import check_source, open_source;"
        "s = DocstringsData('d', 'docstrings'); assert not check_source(s); open_source(s).fingerprint();"
        "print({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
