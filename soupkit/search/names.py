"""What a search calls the files in its unfinished directory."""

JOURNAL = "journal.jsonl"
SOUP = "soup"  # the directory of the best soup, written when the search is over
TRIAL = "trial"  # the directory of the soup that a score of the user's own is asked about
HITS, SCORES, ANSWERS, LOGITS, GRADIENTS = "hits", "scores", "answers", "logits", "gradients"  # a file for each soup
OUTPUT_OF_SCORE = "score-output"  # what the command of a score printed

_MERGED = {f"{name}{suffix}" for name in (SOUP, TRIAL) for suffix in ("", ".partial", ".replaced.partial")}
OURS = {"lock", JOURNAL, HITS, SCORES, ANSWERS, LOGITS, GRADIENTS, OUTPUT_OF_SCORE, *_MERGED}
