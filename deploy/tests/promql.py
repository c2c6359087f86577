"""Which metrics and labels an expression of Prometheus needs: enough of its language for what stands in the rules and in the dashboard."""
import re

WORDS = {
    "abs", "and", "avg", "bool", "by", "count", "group_left", "group_right", "histogram_quantile", "ignoring", "increase", "label_values", "max", "max_over_time", "min",
    "on", "or", "rate", "sum", "topk", "unless", "without",
}


def needs(expression):
    """Labels of selectors by metric, and the labels that something is grouped or joined by."""
    text = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    grouped = set()
    for names in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", text):
        grouped |= {name.strip() for name in names.split(",") if name.strip()}
    text = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", text)
    text = re.sub(r"\[[^\]]*\]", "", text)
    found = {}
    for name, labels in re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?", text):
        if name not in WORDS:
            selected = {match.strip() for match in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", labels)}
            found.setdefault(name, set()).update(selected)
    return found, grouped


def samples(text):
    """Labels by metric, of what /metrics says."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$", line)
        if match:
            labels = re.findall(r'([a-zA-Z_]\w*)="(?:\\.|[^"\\])*"', match[2] or "")
            found.setdefault(match[1], set()).update(labels)
    return found
