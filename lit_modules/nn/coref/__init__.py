"""Coreference by mention ranking, from coarse to fine (Lee et al. 2018, Joshi et al. 2019).

Words for shapes: P pieces of a document, W words, S candidate spans, K kept spans, A antecedents of
a kept span, F features of a span.
"""
