"""Markup: the templates, and what makes a page safe to open anywhere.

Text of models and of users passes through Jinja's escaping; a content security policy names our one style and, where
there is one, our one script by their hashes, and forbids everything else.
"""

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined

from cotdistill.reporting.table import points
from cotdistill.reporting.tabular import interval
from cotdistill.shown import percent, visible
from cotdistill.statistics import p_text


def environment() -> Environment:
    """The templates of this package with the filters they share."""
    made = Environment(
        loader=PackageLoader("cotdistill.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(percent=percent, visible=visible, p_text=p_text, interval=interval, points=points)
    return made


def source(templates: Environment, name: str) -> str:
    """A file of the templates as it is."""
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def policy(style: str, script: str = "", beside: bool = False) -> str:
    """The content security policy of a page with this style and script, and files of rows ``beside`` it."""
    files = " 'self' file:" if beside else ""
    allowed = f" script-src 'sha256-{_hash(script)}'{files};" if script else ""
    return f"default-src 'none'; style-src 'sha256-{_hash(style)}';{allowed} base-uri 'none'"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
