"""Segments end where sentences end, hold each word once and have no more pieces than allowed."""

import itertools
import random

import pytest

from datamodules.tasks.coreference.segments import segments


def test_sentences_stay_whole():
    sentences = [[[1, 2], [3]], [[4], [5]], [[6]], [[7], [8], [9]]]
    made, cut = segments(sentences, 5)
    assert [segment.ids for segment in made] == [[1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert [segment.words for segment in made] == [[0, 0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut == 0


def test_a_sentence_that_is_too_long_is_cut_between_words():
    made, cut = segments([[[1]], [[2, 3], [4, 5], [6]], [[7]]], 3)
    assert [segment.ids for segment in made] == [[1], [2, 3], [4, 5, 6], [7]]
    assert cut == 1
    made, cut = segments([[[1, 2, 3]]], 3)
    assert (len(made), cut) == (1, 0)


@pytest.mark.parametrize("seed", range(10))
def test_every_word_is_in_one_segment(seed):
    rng = random.Random(seed)
    sentences = [
        [[rng.randrange(99)] * rng.randint(1, 4) for _ in range(rng.randint(1, 12))]
        for _ in range(rng.randint(1, 20))
    ]
    room = rng.randint(4, 30)
    made, _ = segments(sentences, room)
    flat = [pieces for sentence in sentences for pieces in sentence]
    assert [i for segment in made for i in segment.ids] == [i for word in flat for i in word]
    expected = [number for number, word in enumerate(flat) for _ in word]
    assert [word for segment in made for word in segment.words] == expected
    assert all(1 <= len(segment.ids) <= room for segment in made)
    assert all(a.words[-1] < b.words[0] for a, b in itertools.pairwise(made))
