// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * NAND flash on a block device, for tests with UBI that lose their power.
 *
 * Debian's kernel has UBI and UBIFS but no simulated NAND. Here a page program
 * is one write with flush, an erase is a write of 0xFF over the block, and both
 * have reached the device when they return, as on real flash. So at a cut at
 * most one of them is half done, and the device, which is outside of this
 * machine, decides how.
 *
 *   insmod cutflash.ko disk=/dev/vda
 *   /sys/module/cutflash/parameters/{programs,erases}   counted since then
 *
 * Not simulated: ECC, bit flips, bad blocks, wear, paired pages of MLC.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/mtd/mtd.h>

#define PAGE 2048
#define BLOCK (128 * 1024)

static char *disk = "/dev/vda";
module_param(disk, charp, 0444);
static unsigned long programs, erases;
module_param(programs, ulong, 0444);
module_param(erases, ulong, 0444);

static struct block_device *device;
static void *bounce; /* BLOCK bytes, under the lock */
static DEFINE_MUTEX(lock);

/* Moves up to BLOCK bytes between the bounce buffer and the device, and waits. */
static int move(blk_opf_t how, loff_t at, size_t length)
{
	struct bio *bio = bio_alloc(device, BLOCK / PAGE_SIZE, how, GFP_KERNEL);
	size_t done;
	int error;

	bio->bi_iter.bi_sector = at >> SECTOR_SHIFT;
	for (done = 0; done < length; done += PAGE_SIZE)
		__bio_add_page(bio, virt_to_page(bounce + done),
			       min_t(size_t, PAGE_SIZE, length - done), 0);
	error = submit_bio_wait(bio);
	bio_put(bio);
	return error;
}

static int flash_read(struct mtd_info *mtd, loff_t from, size_t length,
		      size_t *done, u_char *to)
{
	int error = 0;

	mutex_lock(&lock);
	for (*done = 0; *done < length && !error;) {
		loff_t at = round_down(from + *done, SECTOR_SIZE);
		size_t skip = from + *done - at;
		size_t part = min_t(size_t, length - *done, BLOCK - skip);

		error = move(REQ_OP_READ, at, round_up(skip + part, SECTOR_SIZE));
		if (!error)
			memcpy(to + *done, bounce + skip, part);
		*done += part;
	}
	mutex_unlock(&lock);
	return error;
}

static int flash_write(struct mtd_info *mtd, loff_t to, size_t length,
		       size_t *done, const u_char *from)
{
	int error = 0;

	if ((to | length) % PAGE)
		return -EINVAL;
	mutex_lock(&lock);
	for (*done = 0; *done < length && !error; *done += PAGE) {
		memcpy(bounce, from + *done, PAGE);
		error = move(REQ_OP_WRITE | REQ_SYNC | REQ_FUA, to + *done, PAGE);
		programs++;
	}
	mutex_unlock(&lock);
	return error;
}

static int flash_erase(struct mtd_info *mtd, struct erase_info *what)
{
	int error = 0;
	u64 at;

	mutex_lock(&lock);
	memset(bounce, 0xff, BLOCK);
	for (at = what->addr; at < what->addr + what->len && !error; at += BLOCK) {
		error = move(REQ_OP_WRITE | REQ_SYNC | REQ_FUA, at, BLOCK);
		erases++;
	}
	mutex_unlock(&lock);
	return error;
}

static struct mtd_info flash = {
	.name = "cutflash",
	.type = MTD_NANDFLASH,
	.flags = MTD_CAP_NANDFLASH,
	.writesize = PAGE,
	.writebufsize = PAGE,
	.erasesize = BLOCK,
	._read = flash_read,
	._write = flash_write,
	._erase = flash_erase,
	.owner = THIS_MODULE,
};

static int __init start(void)
{
	int error = -ENOMEM;

	bounce = (void *)__get_free_pages(GFP_KERNEL, get_order(BLOCK));
	if (!bounce)
		return error;
	device = blkdev_get_by_path(disk, FMODE_READ | FMODE_WRITE | FMODE_EXCL, &flash);
	if (IS_ERR(device)) {
		error = PTR_ERR(device);
		goto no_device;
	}
	flash.size = round_down(bdev_nr_bytes(device), BLOCK);
	error = mtd_device_register(&flash, NULL, 0);
	if (!error)
		return 0;
	blkdev_put(device, FMODE_READ | FMODE_WRITE | FMODE_EXCL);
no_device:
	free_pages((unsigned long)bounce, get_order(BLOCK));
	return error;
}
module_init(start);

MODULE_DESCRIPTION("NAND flash on a block device, for power-cut tests");
MODULE_LICENSE("Dual MIT/GPL");
