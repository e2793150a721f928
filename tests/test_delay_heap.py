"""What is held until its time."""

from mqasync.transports.delay_heap import DelayHeap


def test_what_is_due_comes_out_earliest_first_and_the_rest_stays() -> None:
    heap: DelayHeap[str] = DelayHeap()
    assert heap.next_due is None
    for due, item in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (9.0, "z")):
        heap.push(due, item)
    assert heap.next_due == 1.0
    assert heap.pop_due(0.5) == []
    assert heap.pop_due(3.0) == ["a", "b", "c"]
    assert (heap.next_due, len(heap)) == (9.0, 1)  # type: ignore[comparison-overlap]


def test_of_equals_the_first_pushed_comes_first_and_items_are_not_compared() -> None:
    heap: DelayHeap[object] = DelayHeap()
    items = [object() for _ in range(5)]
    for item in items:
        heap.push(1.0, item)
    assert heap.pop_due(1.0) == items
