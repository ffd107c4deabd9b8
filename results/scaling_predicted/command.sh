mutualnet benchmark-scaling --config-file mutual_maskrcnn_r50 --step-ms 500
mutualnet benchmark-scaling --config-file mutual_maskrcnn_r50 --step-ms 500 \
    --network-latency-us 5 --network-gb-per-s 20
