export OMP_NUM_THREADS=1
# mobilenet_v2.pth: an ordinary MobileNetV2 with ImageNet weights, under torchvision's names.
mutualnet import mobilenet_v2.pth output/mobilenet_v2.pth --resolutions 160
python tools/cut_out_objects.py datasets/facade/annotations/instances_train.json \
    datasets/facade/train datasets/facade_objects/train --most 120
python tools/cut_out_objects.py datasets/facade/annotations/instances_val.json \
    datasets/facade/val datasets/facade_objects/val --most 40
mutualnet compare transfer_facade --num-processes 1
