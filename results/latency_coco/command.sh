OMP_NUM_THREADS=1 mutualnet profile --config-file mutual_maskrcnn_mbv2 \
    --image-folder datasets/coco/val2017 --images 6 --detections 20 --device cpu
