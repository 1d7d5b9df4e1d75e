"""The table in the article on many machines is what its committed results give; how its rates are computed."""

import json

from common.marked import fill
from docs import beyond_one_machine


def test_the_articles_table_is_what_the_committed_results_give():
    text = beyond_one_machine.ARTICLE.read_text("utf-8")
    results = json.loads(beyond_one_machine.RESULTS.read_text("utf-8"))
    assert fill(text, "scale-out", beyond_one_machine.table(results)) == text


def test_a_rate_counts_only_while_all_are_at_work():
    batches = [["a", 0, 10, 20], ["b", 5, 10, 10], ["a", 10, 20, 20], ["b", 10, 15, 10]]
    assert beyond_one_machine.rate(batches) == (4, 5)
