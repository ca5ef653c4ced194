"""The user's command; the same as ``cotdistill train``. Runs from a clone, installed or not.

What one may want to change, as flags with these defaults:

    --max_length 1024            longer examples are left out, never cut
    --gradient_checkpointing     off; less memory, about a third slower
    --device_map auto            where layers go on GPUs
    --batch_size 4 --gradient_accumulation_steps 4
"""

import helpers

if __name__ == "__main__":  # a process that vLLM starts reads this file again
    helpers.run("train")
