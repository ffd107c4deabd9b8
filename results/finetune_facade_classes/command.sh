export OMP_NUM_THREADS=1
# mobilenet_v2.pth: an ordinary MobileNetV2 with ImageNet weights, under torchvision's names.
mutualnet import mobilenet_v2.pth output/mobilenet_v2.pth --resolutions 160
mutualnet train --config-file finetune_facade MODEL.WEIGHTS output/mobilenet_v2.pth \
    MUTUALNET.ALLOW_UNTRAINED_WIDTHS True
python - <<'PYTHON'
import json
from pathlib import Path

for split in ("train", "val"):
    data = json.loads(Path(f"datasets/facade/annotations/instances_{split}.json").read_text())
    data["categories"] = [
        c for c in data["categories"] if c["name"] in ("car", "vegetation", "window")
    ]
    kept = {category["id"] for category in data["categories"]}
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] in kept]
    Path(f"output/facade_three_{split}.json").write_text(json.dumps(data))
PYTHON
mutualnet compare finetune_facade_classes --num-processes 1
