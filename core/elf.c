/* SPDX-License-Identifier: BSD-3-Clause */
/* elf.c - writes relocatable ELF files of eBPF: sections as Lua lays them out, the rest by libelf.
 */
#include "abi.h"
#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <gelf.h>
#include <libelf.h>

#ifndef EM_BPF
#define EM_BPF 247
#endif

static int fill(Elf *elf, const struct tw_elf_section *from)
{
	Elf_Scn *section = elf_newscn(elf);
	Elf64_Shdr *header = section ? elf64_getshdr(section) : NULL;
	Elf_Data *data = section ? elf_newdata(section) : NULL;

	if (!header || !data)
		return -1;
	data->d_buf = (void *)from->data; /* libelf reads it only */
	data->d_size = from->size;
	data->d_align = from->align;
	data->d_type = from->type == SHT_SYMTAB ? ELF_T_SYM
	               : from->type == SHT_REL  ? ELF_T_REL
	                                        : ELF_T_BYTE;
	data->d_version = EV_CURRENT;
	header->sh_name = from->name;
	header->sh_type = from->type;
	header->sh_flags = from->flags;
	header->sh_link = from->link;
	header->sh_info = from->info;
	header->sh_entsize = from->entry_size;
	return 0;
}

static int fill_file(Elf *elf, const struct tw_elf_section *sections, uint32_t count,
                     uint32_t names)
{
	Elf64_Ehdr *header = elf64_newehdr(elf);

	if (!header)
		return -1;
	header->e_ident[EI_DATA] = ELFDATA2LSB;
	header->e_type = ET_REL;
	header->e_machine = EM_BPF;
	header->e_version = EV_CURRENT;
	header->e_shstrndx = names;
	for (uint32_t i = 0; i < count; i++)
		if (fill(elf, &sections[i]) < 0)
			return -1;
	return elf_update(elf, ELF_C_WRITE) < 0 ? -1 : 0;
}

int tw_elf_write(const char *path, const struct tw_elf_section *sections, uint32_t count,
                 uint32_t names)
{
	Elf *elf;
	int fd, rc;

	elf_version(EV_CURRENT);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return tw_fail(errno, "%s cannot be written: %s", path, strerror(errno));
	elf = elf_begin(fd, ELF_C_WRITE, NULL);
	rc = elf ? fill_file(elf, sections, count, names) : -1;
	if (rc < 0)
		rc = tw_fail(EIO, "%s cannot be written: %s", path, elf_errmsg(-1));
	elf_end(elf);
	close(fd);
	return rc;
}
