"""Weights on their way out: names held against the base model, proof, merging, the hub.

record.py       export.json: which files, of which checkpoint, proved how
download.py     the files of a checkpoint from a Tinker server
base.py         what of a base model can be adapted, without its weights
names.py        which tensor of an adapter belongs where
adapter.py      an adapter's folder, so that PEFT applies all of it
reference.py    what the server says of some prompts
certificate.py  whether PEFT, or the merged model, says the same
merging.py      a full model, written in bounded memory
hub.py          uploading
taken.py        a checkpoint of any Tinker program, by its path
"""
