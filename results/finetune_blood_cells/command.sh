export OMP_NUM_THREADS=1
mutualnet train --config-file quickstart_shapes --resume
# The detector's backbone alone.
python - <<'PYTHON'
import torch

PREFIX = "backbone.bottom_up."
checkpoint = torch.load("output/quickstart/model_final.pth", weights_only=False)
model = {
    name.removeprefix(PREFIX): value
    for name, value in checkpoint["model"].items()
    if name.startswith(PREFIX)
}
torch.save({"model": model, "mutualnet": checkpoint["mutualnet"]}, "output/quickstart_backbone.pth")
PYTHON
mutualnet compare finetune_blood_cells --num-processes 1
