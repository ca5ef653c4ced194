"""Settings: what a recipe says of each stage, a file a section; unknown keys are refused.

The commands fill the same structs from their flags, so that a setting has one meaning and one set of bounds.
"""
