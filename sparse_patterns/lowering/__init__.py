"""Lowering: from the conjuncts of one head's pattern to disjoint parts made of runs of tiles.

Cost in time and memory grows with the visible blocks; a conjunct with pairs that must be evaluated
one at a time (a `Rule`, an overlap with an earlier conjunct) costs as much as the tiles its bounds
leave.
"""
