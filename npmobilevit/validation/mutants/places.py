"""Where mistakes are: regular expressions for the names of nodes, without their "mobilevit."."""

BLOCK = r"encoder\.layer\.[234]"  # the MobileViT blocks
TRANSFORMER = rf"{BLOCK}\.transformer"
TOKEN_LAYER = rf"{TRANSFORMER}\.layer\.\d+"
ATTENTION = rf"{TOKEN_LAYER}\.attention\.attention"
PROJECTION = rf"{ATTENTION}\.(query|key|value)"
LAYER_NORM = rf"{BLOCK}\.layernorm|{TOKEN_LAYER}\.layernorm_(before|after)"
INVERTED_RESIDUAL = rf"encoder\.layer\.[01]\.layer\.\d|{BLOCK}\.downsampling_layer"
ASPP = r"segmentation_head\.aspp"
CONVOLUTION_3X3 = (  # those that call the operator, not the convolution below them
    rf"conv_stem|(?:{INVERTED_RESIDUAL})\.conv_3x3|{BLOCK}\.(conv_kxk|fusion)|{ASPP}\.convs\.[123]"
)
ANYWHERE = r".*"
