"""What the help of a command says below its options."""

INPUTS = """\
INPUT is a picture (JPEG, PNG, WebP, BMP, GIF, TIFF), a folder of pictures,
a pattern in quotes such as "photos/**/*.jpg", @list.txt (a file that names a
picture a line), or - for a picture on stdin. A file or folder of just that
name comes first. A picture that cannot be used does not stop the others.
"""

CODES = """\
exit codes: 0 good; 1 some inputs failed, or the output could not be written;
2 usage; 3 the model is not to be had; 130 interrupted
"""

PATHS = """\
PATH is a file for one picture, and a folder, which is made if need be, for
several, for a folder and for a pattern. A PATH that ends in a slash is always a
folder. Files are written whole or not at all, and never over an input.
"""

PREDICT = f"""\
{INPUTS}
{PATHS}In a folder photos/sub/a.jpg becomes sub/a.jpg.plot.png.

{CODES}
examples:
  npmobilevit predict cat.jpg
  npmobilevit predict "photos/*.png" --model xx-small --top-k 1
  npmobilevit predict cat.jpg --save-plot cat.plot.png
  npmobilevit predict -r photos --json -o results.json
  curl -s https://example.org/cat.jpg | npmobilevit predict - --jsonl
"""

SEGMENT = f"""\
{INPUTS}
The text gives each class's share of the picture, its name, and p, the mean
probability of its pixels.

{PATHS}In a folder photos/sub/a.jpg becomes sub/a.jpg.mask.png and
sub/a.jpg.overlay.png. A mask is a PNG whose values are the classes.

{CODES}
examples:
  npmobilevit segment street.jpg --overlay street.overlay.jpg
  npmobilevit segment street.jpg -o mask.png --model deeplabv3-xx-small
  npmobilevit segment -r photos -o masks/ --overlay overlays/ --jsonl
"""

EXPLAIN = f"""\
PICTURE is a file, or - for a picture on stdin.

The page is one file that loads nothing: open it in a browser. It shows the
picture as the network sees it, the answer, what each patch attends to, feature
maps, and where the time went; of a classifier what covering a part of the
picture does to the answer; of a segmentation model the mask and a map for each
class.

{CODES}
examples:
  npmobilevit explain cat.jpg -o cat.html
  npmobilevit explain street.jpg -o street.html --model deeplabv3-xx-small
"""

INFO = """\
sha256 is that of the file of weights, weights_sha256 that of the weights in it,
as check and record tell it.

Costs are those of a picture of the model's size, or of --size. macs are
multiply-accumulates; field is the receptive field in pixels of the picture; bytes
are those of the precision that the network runs in, and not of the file. What
counts as what is described in reference/cost.md of the project.

exit codes: 0 good; 1 the picture of --plot could not be written; 2 usage; 3 the
model is not to be had; 130 interrupted

examples:
  npmobilevit info --model small
  npmobilevit info --model deeplabv3-small --size 512 512 --layers
  npmobilevit info --model x-small --csv > layers.csv
"""

RECORD = f"""\
INPUT is a picture, or the network's input itself: an .npy file, or an .npz or
.safetensors file with an array named pixel_values.

What is written is described in reference/bundles.md of the project.

{CODES}
examples:
  npmobilevit record cat.jpg -o golden.safetensors --model small
  npmobilevit record pixels.npy -o golden.safetensors --taps blocks --with-bounds
  npmobilevit record cat.jpg -o golden/ --export hex --layout NHWC --dtype float16
"""

CHECK = """\
CANDIDATE holds the tensors that a port put out: an .npz or .safetensors file, a
folder of .npy files, or a folder with a manifest.json beside raw or hex files.
Their names are those that npmobilevit taps lists; any may be missing.

Every layer is judged on the port's own input to it, against a tolerance that
follows from the profile. Formats and tests are described in
reference/bundles.md and reference/validation.md of the project.

exit codes: 0 pass, or nothing wrong as far as could be seen; 1 the candidate or
the picture cannot be used; 2 usage; 3 the model is not to be had; 4 the port is
wrong; 130 interrupted

examples:
  npmobilevit check port.npz --model small
  npmobilevit check dump/ --model small --image cat.jpg -o report.html
  npmobilevit check port.safetensors --profile bf16 --json
"""

RANGES = f"""\
{INPUTS}
Each picture is prepared as predict does, or, for a segmentation model, as
segment does. For every tap, and every parameter of the modules that they are
of, the table has the smallest and the largest value, two percentiles, and the
finest signed fixed-point formats Qm.n of 8 and 16 bits that hold them: all
values, or "clipped" those between the percentiles. Minimum and maximum are
exact; a percentile is a bound, at most 1/64 of its size too far out. Ctrl-C
gives the table of the pictures so far.

With --export, a folder gets test vectors of convolution and linear layers for
$readmemh: input, weight, bias, and the output that a circuit has to make of
them bit by bit, for the first picture, in formats that hold all of them. The
arithmetic and the files are described in reference/fixed_point.md of the
project.

{CODES}
examples:
  npmobilevit ranges photos --model small --csv -o ranges.csv
  npmobilevit ranges cat.jpg --taps blocks --percentile 99.99
  npmobilevit ranges photos --export vectors/ --layers mobilevit.conv_stem
"""

BENCH = """\
The readable network and the engine, with threads and with processes, are timed
in turn, each in a process of its own, on noise of the model's size. A round is a
turn of each, the faster of two runs; a ratio is the median over the rounds, with
the lowest and the highest. Let nothing else run meanwhile.

exit codes: 0 good; 1 something could not be timed; 2 usage; 3 the model is not
to be had; 4 the engine's answer is not that of the readable network; 130
interrupted

examples:
  npmobilevit bench
  npmobilevit bench --model small --batch 8 --rounds 5
  npmobilevit bench --model deeplabv3-xx-small --size 512 512 --json
"""
