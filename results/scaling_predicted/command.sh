mutualnet benchmark-scaling --config-file mutual_maskrcnn_r50 --step-ms 500
