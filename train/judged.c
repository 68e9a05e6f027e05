/* Images to judge by. See judged.h. */
#include "train/judged.h"

Status judged_open(JudgedImage *image) { return image_reader_open(&image->reader); }

void judged_close(JudgedImage *image)
{
    root_reader_free(&image->file);
    image_reader_close(&image->reader);
    annotations_free(&image->annotations);
    buffer_free(&image->truth);
    buffer_free(&image->prediction);
}

Status judged_open_source(const OptionList *roots, const char *option, int64_t limit, Source **out)
{
    SourceConfig config = {.roots = (const char *const *)roots->items,
                           .n_roots = roots->n,
                           .masks = true,
                           .limit = limit};
    if (roots->n == 0)
        return status_fail(E_CONFIG, "%s is not set; name the folder of the images", option);
    return source_open(&config, out);
}

static Status check_size(const JudgedImage *image)
{
    const Annotations *masks = &image->annotations;
    if (image->size.height == masks->height && image->size.width == masks->width) return OK;
    return status_fail(E_FORMAT, "%.700s is %lld x %lld px (height x width), its masks %lld x %lld",
                       image->name, (long long)image->size.height, (long long)image->size.width,
                       (long long)masks->height, (long long)masks->width);
}

Status judged_read(JudgedImage *image, const Source *source, int64_t index, Predictor *predictor)
{
    source_image_name(source, index, image->name);
    TRY(source_read_masks(source, index, &image->file, &image->annotations));
    TRY(source_read_image(source, index, &image->file));
    TRY(image_decode(&image->reader, image->name, image->file.bytes, image->file.n_bytes, 0));
    image->size = image_full_size(&image->reader);
    TRY(check_size(image));
    size_t n_px = (size_t)(image->size.height * image->size.width);
    TRY(buffer_reserve(&image->truth, n_px));
    TRY(buffer_reserve(&image->prediction, n_px));
    return predictor_set_image(predictor, &image->reader);
}

void judged_box(const Annotation *item, double box[4])
{
    for (int i = 0; i < 2; i++) {
        box[i] = item->bbox[i];
        box[2 + i] = item->bbox[i] + item->bbox[2 + i];
    }
}
