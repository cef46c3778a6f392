"""The table of merge methods as people read it: in the docs and in a command's help."""

from soupkit.merging.registry import LAYER_RULE, METHODS


def as_markdown() -> str:
    """Return the table of methods for the docs: what each does, where it is published, its parameters' defaults."""
    lines = ["| method | soup | needs | parameters |", "|---|---|---|---|"]
    for method in METHODS.values():
        own = {name: p for name, p in method.parameters.items() if name not in LAYER_RULE}
        parameters = ", ".join(f"`{name}={p.shown_default}`" for name, p in own.items())
        needs = {"needed": "base", "optional": "base, or none", "none": ""}[method.base]
        source = f"[{method.citation}]({method.paper.url})"
        lines.append(f"| `{method.name}` | {method.summary} ({source}) | {needs} | {parameters} |")
    return "\n".join(lines) + "\n"


def as_help() -> str:
    """Return the methods and their parameters for a command's help."""
    width = max(map(len, METHODS))
    lines = []
    for method in METHODS.values():
        base = {"needed": "; needs --base", "optional": "; takes --base", "none": ""}[method.base]
        lines.append(f"    {method.name:<{width}}  {method.summary}{base}")
        for name, p in method.parameters.items():
            if name in LAYER_RULE:
                continue
            default = f"={p.shown_default}" if p.default is not None else ""
            choices = f" ({', '.join(p.choices)})" if p.choices else ""
            lines.append(f"    {'':<{width}}    {name}{default}{choices}  {p.help}")
    lines += ["", "Every method with a base also takes"]
    lines += [f"    {name:<{width}}  {p.help}" for name, p in LAYER_RULE.items()]
    return "\n".join(lines)
