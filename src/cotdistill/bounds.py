"""Bounds: what the numbers of a recipe may be. They are checked where a recipe is read, not where code makes one."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]  # what torch, numpy and reasoning-gym all take
Positive = Annotated[float, Meta(gt=0, le=1e6)]
Rate = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Dropout = Annotated[float, Meta(ge=0, lt=1)]
Temperature = Annotated[float, Meta(ge=0, le=100)]
Tokens = Annotated[int, Meta(ge=1)]  # of all traces together
Length = Annotated[int, Meta(ge=2, le=2**31 - 1)]  # a token of the prompt and one to learn
PlanQuestions = Annotated[int, Meta(ge=20, le=50)]  # fewer say too little, more cost what a run does
