export OMP_NUM_THREADS=1
# mobilenet_v2.pth: an ordinary MobileNetV2 with ImageNet weights, under torchvision's names.
mutualnet import mobilenet_v2.pth output/mobilenet_v2.pth --resolutions 160
mutualnet train --config-file finetune_facade MODEL.WEIGHTS output/mobilenet_v2.pth \
    MUTUALNET.ALLOW_UNTRAINED_WIDTHS True
mutualnet evaluate --config-file finetune_facade --resume
mutualnet demo output/finetune_facade datasets/facade/val/0028.jpg datasets/facade/val/0069.jpg \
    --point 0.25x112 --output output/facade_cheap
mutualnet demo output/finetune_facade datasets/facade/val/0028.jpg datasets/facade/val/0069.jpg \
    --point 1.00x224 --output output/facade_dear
cp output/facade_cheap/0028.jpg output/cheap_0028.jpg
cp output/facade_cheap/0069.jpg output/cheap_0069.jpg
cp output/facade_dear/0028.jpg output/dear_0028.jpg
cp output/facade_dear/0069.jpg output/dear_0069.jpg
sed -n "s/.*INFO: \(140\/800 .*\)/\1/p" output/finetune_facade/log.txt > output/progress.txt
