"""What MkDocs does to the pages: the help of every command, and links that leave the site."""

import re

import click

MARK = "<!-- The site puts the help of every command below; docs/hooks.py. -->"


def on_page_markdown(markdown, page, **_):
    """Called by MkDocs for each page, before it becomes HTML."""
    if MARK in markdown:
        markdown = markdown.replace(MARK, every_help())
    return outward_links(markdown, page.file.src_uri.count("/") + 1)


def outward_links(markdown, up):
    """Turn links to files of the repository that the site does not have into their paths."""
    return re.sub(
        rf"\[([^\]]*)\]\((?:\.\./){{{up}}}([^)]+)\)",
        lambda link: (
            f"`{link[2]}`"
            if link[1].strip("`").rstrip("/") in link[2]
            else f"{link[1]} (`{link[2]}` in the repository)"
        ),
        markdown,
    )


def every_help():
    from bigspec.cli import main

    context = click.Context(main, info_name="bigspec", terminal_width=72)
    parts = [section("bigspec", click.unstyle(main.get_help(context)))]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        below = click.Context(command, info_name=name, parent=context, terminal_width=72)
        parts.append(section(f"bigspec {name}", click.unstyle(command.get_help(below))))
    return "\n".join(parts)


def section(title, text):
    return f"## {title}\n\n```text\n{text}\n```\n"
