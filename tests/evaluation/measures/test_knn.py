import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esvit_fast.evaluation.features import Features
from esvit_fast.evaluation.measures.knn import Accuracy, knn, nearest, rank_of_class


def features(count, width=6, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return Features(
        torch.from_numpy(rng.standard_normal((count, width)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, classes, count)),
    )


def brute_force(bank, queries, k, temperature):
    """Plain NumPy float64, one query at a time."""
    unit = [x.features.numpy().astype(np.float64) for x in (bank, queries)]
    b, q = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit)
    classes = int(max(bank.labels.max(), queries.labels.max())) + 1
    first, five = [], []
    for row, label in zip(q, queries.labels.tolist(), strict=True):
        similarity = b @ row
        votes = np.zeros(classes)
        for i in np.argsort(-similarity, kind="stable")[:k]:
            votes[bank.labels[i]] += np.exp(similarity[i] / temperature)
        order = sorted(range(classes), key=lambda c: (-votes[c], c))
        first.append(order[0] == label)
        five.append(label in order[:5])
    return 100 * np.mean(first), 100 * np.mean(five)


@pytest.mark.parametrize("classes", [2, 4, 11])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_equals_numpy(classes, temperature):
    bank, queries = features(150, classes=classes), features(83, classes=classes, seed=1)
    result = knn(bank, queries, k=(1, 7, 150), temperature=temperature, chunk=32)
    for k, got in result.items():
        assert got == pytest.approx(brute_force(bank, queries, k, temperature), abs=1e-9)


def test_k_one_of_itself_is_perfect_and_fewer_than_five_classes_fill_top5():
    bank = features(40, classes=3)
    assert knn(bank, bank, k=(1,))[1] == Accuracy(100.0, 100.0)
    assert knn(bank, features(20, classes=3, seed=2), k=(10,))[10].top5 == 100.0


def test_classes_may_have_any_numbers_and_a_query_of_none_of_them_is_wrong():
    bank, queries = features(60, classes=4), features(30, classes=4, seed=1)
    numbers = torch.tensor([0, 7, 10**12, 2**62])  # as identities or hashes are
    plain = knn(bank, queries, k=(5,))
    assert plain == knn(*(side._replace(labels=numbers[side.labels]) for side in (bank, queries)), k=(5,))
    lost = queries._replace(labels=torch.where(queries.labels == 2, 5, queries.labels))
    kept = queries.labels != 2
    alone = knn(bank, Features(queries.features[kept], queries.labels[kept]), k=(5,))[5]
    share = kept.double().mean().item()
    assert knn(bank, lost, k=(5,))[5] == pytest.approx([share * number for number in alone])
    assert knn(bank, queries._replace(labels=queries.labels + 4), k=(5,))[5] == Accuracy(0.0, 0.0)  # top-5 of 4 classes


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), count=st.integers(1, 12), chunk=st.integers(1, 50), data=st.data())
def test_nearest_is_the_same_for_any_chunks(size, count, chunk, data):
    k = data.draw(st.integers(1, size))
    # unit vectors of halves and of whole numbers: every product is exact in float32, and ties abound
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows = np.concatenate([np.eye(4), rng.choice([-0.5, 0.5], (12, 4))]).astype(np.float32)
    bank, queries = (torch.from_numpy(rows[rng.integers(0, len(rows), n)]) for n in (size, count))
    similarity, index = nearest(bank, queries, k, chunk=chunk)
    whole_similarity, whole_index = nearest(bank, queries, k, chunk=1000)
    assert torch.equal(index, whole_index)
    assert torch.equal(similarity, whole_similarity)
    expected = torch.sort(queries @ bank.T, dim=1, descending=True, stable=True)
    assert torch.equal(index, expected.indices[:, :k])
    assert torch.equal(similarity, expected.values[:, :k])


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_accuracy_does_not_depend_on_chunks(chunk):
    bank, queries = features(130, width=20), features(61, width=20, seed=1)
    assert knn(bank, queries, k=(5, 50), chunk=chunk) == knn(bank, queries, k=(5, 50), chunk=130)


def test_equal_neighbours_are_taken_in_bank_order():
    bank = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    similarity, index = nearest(bank, torch.tensor([[2.0, 0.0]]), 5, chunk=2)
    assert index.tolist() == [[0, 2, 4, 3, 1]]
    assert similarity.tolist() == [[1.0, 1.0, 1.0, 0.0, -1.0]]


def test_rank_counts_earlier_classes_only_on_ties():
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0]] * 4)
    assert rank_of_class(scores, torch.arange(4)).tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": (10, 41)}, "k=41 must lie between 1 and the 40 images of the bank; pass"),
        ({"k": (0,)}, "k=0 "),
        ({"k": ()}, r"k=\(\)"),
        ({"temperature": 0.0}, "temperature=0.0 must be greater than 0"),
        ({"queries": features(5, width=7)}, "queries have 7 features but the bank has 6"),
        ({"queries": Features(torch.ones(2, 6), torch.tensor([0, -1]))}, "queries: 1 of 2 images have no class"),
        ({"queries": Features(torch.ones(0, 6), torch.zeros(0, dtype=torch.int64))}, "queries: holds no images"),
    ],
)
def test_bad_input(change, words):
    arguments = {"bank": features(40), "queries": features(5, seed=1), "k": (10,)} | change
    with pytest.raises(ValueError, match=words) as error:
        knn(arguments.pop("bank"), arguments.pop("queries"), **arguments)
    assert "\n" not in str(error.value)
