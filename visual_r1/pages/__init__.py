"""The local pages over run folders: `visual-r1 view`, and what `make up` serves.

`app` makes the application of the pages' routers, `guard` says who may see them, `place` where
the runs lie, `showing` how a page is written. A page only reads; nothing here needs torch.
"""
