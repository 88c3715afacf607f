#!/bin/sh
# Renders the result files the simulated upstreams hand out, with ffmpeg >= 5:
#   clip.mp4        121 frames (the 5 s of a real render), 640x360, H.264 baseline, +faststart
#   thumbnail.webp  its frame at 2 s
#   spritesheet.jpg one frame a second, side by side
# Usage: ./render.sh   (in this directory; -threads 1 and bitexact keep the output repeatable)
set -eu

ffmpeg -y -loglevel error \
  -f lavfi -i "color=c=0x16324f:s=640x360:r=24" \
  -f lavfi -i "color=c=0xf6c445:s=72x72:r=24" \
  -f lavfi -i "color=c=0xe4572e:s=640x14:r=24" \
  -f lavfi -i "color=c=0x76b041:s=36x120:r=24" \
  -filter_complex "
    [0]drawbox=x=0:y=0:w=128:h=90:c=0x2a6f97:t=fill,
       drawbox=x=128:y=0:w=128:h=90:c=0x468faf:t=fill,
       drawbox=x=256:y=0:w=128:h=90:c=0x61a5c2:t=fill,
       drawbox=x=384:y=0:w=128:h=90:c=0x89c2d9:t=fill,
       drawbox=x=512:y=0:w=128:h=90:c=0xa9d6e5:t=fill[bars];
    [bars][1]overlay=x='284+240*sin(2*PI*t/2.5)':y='190-70*abs(cos(2*PI*t/1.25))'[ball];
    [ball][3]overlay=x='mod(120*t,676)-36':y=222[walker];
    [walker][2]overlay=x='-640+640*t/5.04':y=346,format=yuv420p" \
  -frames:v 121 -c:v libx264 -profile:v baseline -level 3.0 -preset veryslow -crf 30 \
  -threads 1 -fflags +bitexact -flags:v +bitexact -map_metadata -1 -movflags +faststart clip.mp4

ffmpeg -y -loglevel error -ss 2 -i clip.mp4 -frames:v 1 -c:v libwebp -quality 70 thumbnail.webp
ffmpeg -y -loglevel error -i clip.mp4 -vf "fps=1,scale=160:-1,tile=5x1" -frames:v 1 \
  -c:v mjpeg -q:v 6 -fflags +bitexact spritesheet.jpg
