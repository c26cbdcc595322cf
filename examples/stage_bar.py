"""Where the time of models goes, a bar each: cells of a notebook, and a script that writes stages.png."""

# %% Time them; before that an untimed pass of each must give the tokens of generate()
import matplotlib.pyplot as plt

import stagebench
from stagebench.core.stages import STAGES

settings = stagebench.settings_of(model=["llava-1.5", "video-llava"], new_tokens=8)
found = stagebench.run(settings, passes=3)

# %% A bar a model, a part a stage
colors = {stage.name: stage.color for stage in STAGES} | {"unattributed": "#8A8A8A"}
figure, axes = plt.subplots(figsize=(8, 2.4), layout="constrained")
for name, measured in found.items():
    run, left = measured.median, 0.0
    for stage, seconds in {**run.seconds, "unattributed": run.unattributed}.items():
        label = stage if measured is found[settings.models[0]] else None  # in the legend once
        axes.barh(name, seconds * 1e3, left=left, color=colors[stage], label=label)
        left += seconds * 1e3
axes.set_xlabel("ms")
figure.legend(loc="outside upper center", ncols=6)
figure.savefig("stages.png")
