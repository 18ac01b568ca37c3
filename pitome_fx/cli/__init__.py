"""The command line, ``python -m pitome_fx``.

arguments   the parser; its pitome options are the fields of ``Options``
words       how words become options and settings
models      models by name: ``module:callable``, ``timm:NAME``, ``hf:CONFIG``
shapes      inputs by their shapes
loading     the model and the options that are named
exporting   export
commands    explain, bench, compare, calibrate; from words to an exit status
"""
