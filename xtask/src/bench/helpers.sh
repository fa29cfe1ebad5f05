# For the scripts in contenders.rs. In their environment:
#   IMG DAY2 FLEET_A FLEET_B HUGE   the disks
#   PARTITIONS                      those of IMG, as FILESYSTEM:DEVICE:NUMBER
#   DEBIAN                          a disk that boots
#   WORK CORES IMAGER               where results go, the number of processors, the program

# With the buffer that its best known user gives it. It sleeps until its next progress report before it ends: reports
# every second, its shortest, instead of every two make that wait as short as it can be.
PARTCLONE='-f 1 -z 10485760 -L /dev/null'

partclone_each() { # FOLDER COMPRESSOR OPTION...
  local folder=$1 compressor=$2 entry kind device number
  shift 2
  mkdir -p "$folder"
  sfdisk --dump "$IMG" > "$folder/table"
  for entry in $PARTITIONS; do
    IFS=: read -r kind device number <<< "$entry"
    "partclone.$kind" $PARTCLONE "$@" -c -s "$device" -o - | $compressor > "$folder/$number"
  done
}

partclone_restore_each() { # FOLDER
  local entry kind device number
  for entry in $(cat "$WORK/target.partitions"); do
    IFS=: read -r kind device number <<< "$entry"
    zstd -q -d -c "$1/$number" | partclone.restore $PARTCLONE -s - -o "$device"
  done
}

attach_partition() { # IMAGE NUMBER OPTION...
  local image=$1 number=$2 start size
  shift 2
  read -r start size < <(partx --raw --noheadings --nr "$number" -o START,SECTORS "$image")
  losetup --find --show "$@" --offset $((start * 512)) --sizelimit $((size * 512)) "$image"
}

warm() { cat "$@" > /dev/null; }
warm_programs() {
  warm "$IMAGER" $(command -v borg dd fio nbdcopy partclone.{ext4,vfat,xfs,ntfs,restore} qemu-{img,nbd,system-x86_64} restic zstd)
}
warm_folder() { find "$1" -type f -exec cat {} + > /dev/null; }
warm_partitions() { partclone_each "$WORK/warm" 'wc -c' -a0; rm -r "$WORK/warm"; }

used_bytes() { # every file system's used blocks, one after another, as plain bytes
  local entry kind device number
  for entry in $PARTITIONS; do
    IFS=: read -r kind device number <<< "$entry"
    "partclone.$kind" $PARTCLONE -a0 -c -s "$device" -o -
  done
}

imager_init() { rm -rf "$1"; "$IMAGER" init --no-password "$@"; }
restic_init() { rm -rf "$1"; restic -q init --repository-version 2 -r "$1"; }
restic_backup() { restic -q -r "$1" backup --compression auto --stdin --stdin-filename disk.img < "$2"; }
borg_init() { rm -rf "$1" "$BORG_BASE_DIR"; borg init -e none "$1"; }
borg_create() { borg create --compression zstd,3 --stdin-name disk.img "$1::$2" - < "$3"; }
# borg's cache must know the copy before it is measured, as it would know its own repository.
copy_of() { rm -rf "$2"; cp -a "$1" "$2"; [ ! -e "$2/README" ] || borg info "$2" > /dev/null; }

no_target() { rm -f "$WORK/target.img"; }
fresh_target() { no_target; truncate -s "$(stat -L -c %s "$IMG")" "$WORK/target.img"; }
target_device() { fresh_target; losetup --find --show "$WORK/target.img" > "$WORK/target.devices"; }
target_partitions() {
  local entry kind device number
  fresh_target
  sfdisk --dump "$IMG" | sfdisk --quiet "$WORK/target.img"
  : > "$WORK/target.devices"
  : > "$WORK/target.partitions"
  for entry in $PARTITIONS; do
    IFS=: read -r kind device number <<< "$entry"
    device=$(attach_partition "$WORK/target.img" "$number")
    echo "$device" >> "$WORK/target.devices"
    echo "$kind:$device:$number" >> "$WORK/target.partitions"
  done
}
detach_target() { xargs losetup --detach < "$WORK/target.devices"; }

no_clone() { # the repository remembers a linked one
  [ ! -e "$WORK/clone.qcow2.clone.json" ] || "$IMAGER" clone --release "$WORK/clone.qcow2" --repo "$WORK/imager"
  rm -f "$WORK"/clone.qcow2*
}

NBD="nbd+unix:///?socket=$WORK/nbd.sock"

serve() { # COMMAND...
  rm -f "$WORK/nbd.sock"
  setsid "$@" > "$WORK/server.log" 2>&1 < /dev/null &
  echo $! > "$WORK/server.pid"
  until nbdinfo --size "$NBD" > /dev/null 2>&1; do
    kill -0 "$(cat "$WORK/server.pid")" || return 1
    sleep 0.1
  done
}
serve_image() { serve "$IMAGER" serve latest --repo "$WORK/$1" --socket "$WORK/nbd.sock"; }
serve_qcow2() { serve qemu-nbd --read-only --persistent --shared 0 -f qcow2 --socket "$WORK/nbd.sock" "$WORK/$1"; }
stop_serving() {
  local pid
  pid=$(cat "$WORK/server.pid")
  kill "$pid"
  while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
}
serve_clone() {
  rm -f "$WORK"/debian.qcow2*
  "$IMAGER" clone --linked latest --repo "$WORK/imager-debian" --socket "$WORK/nbd.sock" -o "$WORK/debian.qcow2"
  serve "$IMAGER" serve --repo "$WORK/imager-debian" --for "$WORK/debian.qcow2"
}

# As many connections and requests as keep two processors busy: the client shares them with the server, and with its
# defaults spends twice as much on memory for what is under way.
read_all() { nbdcopy --connections=2 --threads=2 --requests=8 "$NBD" null:; }

READ_BEFORE='--offset=1g --size=256m'
random_reads() { # COUNT OPTION...: of 4 KiB, 16 at a time, always the same ones
  local count=$1
  shift
  fio --name=random --ioengine=nbd --uri="$NBD" --rw=randread --bs=4k --iodepth=16 --number_ios="$count" \
    --randseed=7 --norandommap --size=8g "$@" > "$WORK/fio.log"
}

boot_until_login() { # DRIVE
  local qemu
  rm -f "$WORK/serial"
  qemu-system-x86_64 -machine q35 -accel tcg,thread=single -smp 2 -m 768 -nodefaults -display none -vga std \
    -drive "if=virtio,$1" -serial "file:$WORK/serial" &
  qemu=$!
  until grep -q 'login: ' "$WORK/serial" 2> /dev/null; do
    kill -0 $qemu || return 1
    sleep 0.1
  done
  kill $qemu
  wait $qemu || true
}

same_as_disk() { cmp "$IMG" "$WORK/target.img"; }
# For tools that bring back what is in use: each file system's own checker, which changes nothing.
sound() {
  local entry kind device number status=0
  cp --sparse=always "$WORK/target.img" "$WORK/checked.img"
  for entry in $PARTITIONS; do
    IFS=: read -r kind device number <<< "$entry"
    device=$(attach_partition "$WORK/checked.img" "$number" --read-only)
    case $kind in
      vfat) fsck.vfat -n "$device" ;;
      ext4) e2fsck -f -n "$device" ;;
      xfs) xfs_repair -n "$device" ;;
      ntfs) ntfsfix -n "$device" ;;
    esac || status=$?
    losetup --detach "$device"
  done
  rm "$WORK/checked.img"
  return $status
}
