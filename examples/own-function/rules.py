"""Two stages of one's own: each is given rows, and returns a list with one result a row."""

GOOD, BAD = {"great", "love", "fast", "works"}, {"broken", "slow", "refund", "never"}


def by_words(rows):
    """Logits from the words that are there."""
    return [[count(row, BAD), count(row, GOOD)] for row in rows]


def by_length(rows):
    """Long reviews are complaints."""
    return [[len(row["text"]) / 40, 1.0] for row in rows]


def count(row, words):
    return float(sum(word.strip(".,!").lower() in words for word in row["text"].split()))
