mutualnet cost --config-file mutual_maskrcnn_mbv2
