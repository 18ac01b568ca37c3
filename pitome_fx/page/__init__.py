"""The report as a page: one HTML file that needs no other, no network and no script.

contents    what a page is made of
parts       a model in parts, its blocks and what is around them, and their FLOPs
pairing     which node of the merged graph stands for which of the dense one
lines       a node as a line of text
segments    both graphs in segments, each of one part
listing     the two graphs side by side
sections    verdicts, FLOPs, lifts and projections, notes
charts      bars
drawing     which pictures there are
pictures    how they are shown
reproduce   the options
layout      all of it in order
style       how it looks
markup      HTML in which text is escaped
writing     to a file
"""
