export OMP_NUM_THREADS=1
# The images are those of results/transfer_facade.
train() {
    mutualnet train --config-file transfer OUTPUT_DIR output/$1 MODEL.WEIGHTS output/mobilenet_v2.pth \
        MUTUALNET.ALLOW_UNTRAINED_WIDTHS True "${@:2}"
    mutualnet evaluate --config-file transfer --points 0.25x48 0.25x96 1.0x48 1.0x96 \
        OUTPUT_DIR output/$1 MODEL.WEIGHTS output/$1/model_final.pth "${@:2}"
}
train t_w1
train t_w01 MUTUALNET.SUBNETWORK_WEIGHT 0.1
train t_w01_lr3 MUTUALNET.SUBNETWORK_WEIGHT 0.1 SOLVER.BASE_LR 0.003
train t_w01_gt MUTUALNET.SUBNETWORK_WEIGHT 0.1 MUTUALNET.LOSS_WEIGHTS.GROUND_TRUTH 1.0
python - > output/table.md <<'PYTHON'
import json
from pathlib import Path

from tabulate import tabulate

POINTS = ((0.25, 48), (0.25, 96), (1.0, 48), (1.0, 96))
TITLES = {
    "t_w1": "as `transfer.yaml` has it",
    "t_w01": "a tenth of the weight for sub-networks",
    "t_w01_lr3": "so, and three times the learning rate",
    "t_w01_gt": "so, and sub-networks learn from the ground truth too",
}
rows = []
for name, title in TITLES.items():
    grid = json.loads(Path(f"output/{name}/grid/grid.json").read_text())["rows"]
    top1 = {(row["width"], row["resolution"]): row["class"]["top1"] for row in grid}
    rows.append([title, *(f"{top1[point]:.1f}" for point in POINTS)])
headers = ["300 steps", *(f"{width:.2f}x{resolution}" for width, resolution in POINTS)]
print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))
PYTHON
