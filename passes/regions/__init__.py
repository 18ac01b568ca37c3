"""Regions: a merged graph cut into parts of few kinds, so that each kind is compiled once.

whole       which graphs stay whole
atoms       the smallest parts: from one costly op to the next
joining     which neighbours are joined, so that there are few calls and few kinds
structure   what makes two regions alike, and the integers in which they differ
symbolic    one graph for all regions of a kind, with symbols for those integers
cutting     the stage: all of it
budget      how many regions there may be
"""
