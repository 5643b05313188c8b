"""The Jinja environment of all backends: strict, and nothing in it but the views handed over."""

from __future__ import annotations

from functools import cache

import jinja2

from attngen.core.resources import resource


@cache
def environment() -> jinja2.Environment:
    """Templates under `templates/`; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(template: str, **view: object) -> str:
    """One template over one view."""
    return environment().get_template(template).render(**view)
