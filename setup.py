"""What pyproject.toml cannot declare: the README as an index page can show it."""

import re
from pathlib import Path

from setuptools import setup

#: Where the repository's files can be read by their paths, with a slash at its end. While there is
#: no such address, links of the README to files are plain text in a distribution.
FILES = ""

_IMAGE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")
_COMMENT = re.compile(r"<!--.*?-->\n*", re.S)


def for_an_index(text: str, files: str = FILES) -> str:
    """A README without dead links: those to files lead to ``files``, or nowhere where it is ''."""
    text = _COMMENT.sub("", text)
    if files:
        return re.sub(r"\]\((?!https?:|#)", f"]({files}", text)
    return _LINK.sub(r"\1", _IMAGE.sub("", text))


if __name__ == "__main__":
    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(
        long_description=for_an_index(readme),
        long_description_content_type="text/markdown",
    )
