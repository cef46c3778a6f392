"""Each ingredient's Shapley share of a soup's score (Shapley 1953, "A value for n-person games").

    share(i) = sum over S in N without i of |S|! (n - |S| - 1)! / n! (v(S and i) - v(S))

N are the soup's n members; v(S) is the best score of a soup with exactly the members S, v of nobody is 0, so that the
shares add up to the soup's score. Of a subset that was not scored to the end, v is that of the best scored subset
within it: what one could have made of these ingredients, as far as is known.
"""

from collections.abc import Collection, Mapping
from itertools import combinations
from math import comb, fsum


def shapley_shares(members: Collection[int], scores: Mapping[frozenset[int], float]) -> dict[int, float]:
    """Return the share of each of `members`; `scores` are v, by subset, of those that are known.

    All 2^n subsets are looked at: for a dozen members and fewer.
    """
    n, value = len(members), {frozenset[int](): 0.0}
    for size in range(1, n + 1):
        for some in map(frozenset, combinations(sorted(members), size)):
            score = scores.get(some)
            value[some] = score if score is not None else max(value[some - {m}] for m in some)
    return {
        i: fsum((value[some | {i}] - value[some]) / (n * comb(n - 1, len(some))) for some in value if i not in some)
        for i in members
    }


def known_subsets(members: Collection[int], scores: Mapping[frozenset[int], float]) -> int:
    """Return how many non-empty subsets of `members` have a known score."""
    return sum(1 for some in scores if some and some <= frozenset(members))
