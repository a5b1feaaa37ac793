"""The local pages over run folders: `visual-r1 view`, and what `make up` serves.

`app` makes the application of the pages' routers, `guard` says who may see them, `place` where
the runs lie, `showing` how a page is written. Pages only read, and start in no time; `scoring`
alone, in a process of its own, needs the SDK and asks a server.
"""
